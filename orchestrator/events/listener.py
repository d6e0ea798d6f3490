"""What one client has heard of a run, and what waits for it.

Of all that is done for a stream, this is done for each delta and each of its listeners: what comes next in order and
holds deltas only takes a short way, anything else is looked at frame by frame. If nothing waits but whoever relays, and
the client takes it, such a delta goes to the client's outlet at once, and wakes nobody.
"""

import asyncio
from collections import deque
from typing import Protocol

from orchestrator.events import frames
from orchestrator.events.frames import Cursor
from orchestrator.events.heard import Heard

PING = b": ping\n"
"""A comment, without an empty line: after an `id:`, official clients would take that for an event without data."""
BUFFER = 1000
"""Messages that wait for a slow listener before it has to read the stream again."""
TOGETHER = 64 * 1024
"""Bytes of deltas that are relayed at once, at most, where several messages wait."""
DELTA = b"\nevent: thread.message.delta\n"


class Outlet(Protocol):
    """Where a listener's client may be written to without waiting. `write` is called only while it is `open`."""

    @property
    def open(self) -> bool:
        """Whether the client takes what it is sent."""

    def write(self, data: bytes) -> None:
        """Send whole frames behind all that was relayed. Must not block."""


class Listener:
    """`hear` is given each message; `next` is asked by whoever relays them, as fast or slowly as it can. Whoever asks
    again has relayed what it had: while it waits, deltas go to the `outlet`.

    `cursor` is the place of the last frame that was heard, `at_rest` whether the run stood still with it, `ended`
    whether there is nothing more to be heard.
    """

    def __init__(self, after: Cursor, answered: str | None, silence: float, outlet: Outlet | None = None) -> None:
        self.cursor = after
        self.heard = Heard(after, answered)
        self.at_rest = False
        self.ended = False
        self._silence = silence
        self._outlet = outlet
        self._last = "thread.run.created"
        self._waiting: deque[bytes] = deque()
        self._lost = False
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[bool] | None = None
        self._heard_at = 0.0
        self._alarm: asyncio.TimerHandle | None = None

    def hear(self, batch: bytes | None) -> None:
        """Take a message; None, or one too many, means that the stream must be read again."""
        if batch is not None and self._outlet is not None and self._passes(batch, self._outlet):
            return
        if batch is None or len(self._waiting) >= BUFFER:
            self._lost = True
            self._waiting.clear()
        elif not self._lost:
            self._waiting.append(batch)
        self._wake()

    def forget(self) -> None:
        """Start afresh: the stream is about to be read."""
        self._lost = False

    def fresh(self, batch: bytes) -> bytes:
        """The part of a batch that is new to this listener and may be relayed; the cursor moves behind the batch.

        The batch comes from the stream, or follows the cursor: what is missing before it is lost.
        """
        first, last = frames.first_cursor(batch), frames.last_cursor(batch)
        if last <= self.cursor:
            return b""
        if self._misses(first):
            self.heard.hole = True
        if first <= self.cursor:
            batch = b"".join(frame for cursor, frame in frames.split(batch) if cursor > self.cursor)
        if last.attempt != self.cursor.attempt:
            self.heard.next_attempt(self._last)
        self.cursor = last
        self._last = frames.last_event(batch)
        self.at_rest = self._last in frames.RESTING
        return self.heard.follow(batch)

    async def next(self) -> bytes:
        """What is heard next, or a comment if nothing comes for `silence` seconds; b"" if there is nothing more to be
        heard, or something is missing: then the stream is to be read again.
        """
        while not (self._lost or self.ended):
            if not self._waiting:
                if await self._silent():
                    self._lost = True
                    return PING
            elif self._takes(self._waiting[0]):
                return self._deltas()
            else:
                batch = self._waiting.popleft()
                if self._misses(frames.first_cursor(batch)):
                    break
                fresh = self.fresh(batch)
                if self.at_rest:
                    self.ended = not self.heard.hole
                    self._lost = not self.ended
                if fresh:
                    return fresh
        return b""

    def close(self) -> None:
        """Let go of the clock."""
        if self._alarm is not None:
            self._alarm.cancel()

    def _passes(self, batch: bytes, outlet: Outlet) -> bool:
        """Whether the client was given it at once, behind all that there was."""
        if self._waiter is None or self._waiter.done() or not outlet.open or not self._takes(batch):
            return False
        self._heard_at = self._loop.time()
        outlet.write(batch)
        return True

    def _deltas(self) -> bytes:
        """The batch that was taken, and those that follow it as simply: a busy process sends them together."""
        taken = self._waiting.popleft()
        while self._waiting and len(taken) < TOGETHER and self._takes(self._waiting[0]):
            taken += self._waiting.popleft()
        return taken

    async def _silent(self) -> bool:
        """Wait for more; whether nothing came for so long that it must be asked why."""
        self._heard_at = self._loop.time()
        if self._alarm is None:
            self._alarm = self._loop.call_later(self._silence, self._look)
        self._waiter = self._loop.create_future()
        return await self._waiter

    def _takes(self, batch: bytes) -> bool:
        """Whether a batch is what comes next, and deltas of a message only: then it is heard, and relayed as it is."""
        attempt, seq = self.cursor
        if not batch.startswith(b"id: %d-%d%b" % (attempt, seq + 1, DELTA)) or self.heard.hole:
            return False
        if batch.find(b"\n\nid: ") < 0:
            self.cursor = Cursor(attempt, seq + 1)
        elif batch.count(b"\nevent: ") == batch.count(DELTA):
            self.cursor = frames.last_cursor(batch)
        else:
            return False
        self._last, self.at_rest = "thread.message.delta", False
        self.heard.add(batch)
        return True

    def _misses(self, first: Cursor) -> bool:
        """Whether something is missing before a frame."""
        if first.attempt == self.cursor.attempt:
            return first.seq > self.cursor.seq + 1
        return first.attempt > self.cursor.attempt and first.seq > 1

    def _wake(self, silent: bool = False) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(silent)

    def _look(self) -> None:
        """Wake whoever waits if nothing came. One clock for all of a stream: one for each wait costs more than that."""
        left = self._heard_at + self._silence - self._loop.time()
        if left <= 0:
            self._wake(silent=True)
            left = self._silence
        self._alarm = self._loop.call_later(left, self._look)
