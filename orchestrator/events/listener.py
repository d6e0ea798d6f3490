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
from orchestrator.events.tails import LAG

PING = b": ping\n"
"""A comment, without an empty line: after an `id:`, official clients would take that for an event without data."""
BUFFER = 1000
"""Messages that wait for a slow listener before it has to read the stream again."""
TOGETHER = 64 * 1024
"""Bytes of deltas that are relayed at once, at most, where several messages wait."""
DELTA = b"\nevent: thread.message.delta\n"
NEXT = b"id: %d-%d" + DELTA
SETTLED = LAG + 0.25
"""Seconds after which what was published is in the stream, unless its writer is lost, or late: then the next look finds
it.
"""


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

    The stream may lack deltas that were published last. A listener that has just begun to listen, or has missed
    messages, does not know those either: it is sure again once it hears the next one, or has read the stream later.
    """

    __slots__ = (
        "_alarm",
        "_attempt",
        "_blind",
        "_heard_at",
        "_last",
        "_loop",
        "_lost",
        "_missing",
        "_outlet",
        "_seq",
        "_silence",
        "_sure_at",
        "_unsure",
        "_waiter",
        "_waiting",
        "at_rest",
        "ended",
        "heard",
    )

    def __init__(self, after: Cursor, answered: str | None, silence: float, outlet: Outlet | None = None) -> None:
        self._attempt, self._seq = after
        self.heard = Heard(after, answered)
        self.at_rest = False
        self.ended = False
        self._silence = silence
        self._outlet = outlet
        self._last = "thread.run.created"
        self._blind = after.seq > 0  # what the last event was, only its client knows
        self._waiting: deque[bytes] = deque()
        self._lost = False
        self._sure_at = 0.0
        """When the stream has what was missed, in the loop's time."""
        self._unsure = False
        self._missing: tuple[Cursor | None, float] = (None, 0.0)
        """Behind which place something is missing, and since when there was nothing to relay."""
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[bool] | None = None
        self._heard_at = 0.0
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def cursor(self) -> Cursor:
        """Where the listener is. (Two numbers inside: a new cursor for each delta costs more than all else here.)"""
        return Cursor(self._attempt, self._seq)

    def hear(self, batch: bytes | None) -> None:
        """Take a message; None, or one too many, means that the stream must be read again."""
        waiter, outlet = self._waiter, self._outlet
        if (
            batch is not None
            and outlet is not None
            and waiter is not None
            and not waiter.done()  # its client was given all that there was
            and outlet.open
            and self._takes(batch)
        ):
            self._heard_at = self._loop.time()
            outlet.write(batch)
            return
        if batch is None or len(self._waiting) >= BUFFER:
            self._lost = True
            self._waiting.clear()
        elif not self._lost:
            self._waiting.append(batch)
        self._wake()

    def forget(self) -> None:
        """Start afresh: the stream is about to be read."""
        now = self._loop.time()
        if self._lost or not self._sure_at:
            self._sure_at = now + SETTLED
        self._lost, self._unsure = False, now < self._sure_at

    def fresh(self, batch: bytes) -> bytes:
        """The part of a batch that is new to this listener and may be relayed; the cursor moves behind the batch.

        The batch comes from the stream, or follows the cursor: what is missing before it is lost.
        """
        first, last, here = frames.first_cursor(batch), frames.last_cursor(batch), self.cursor
        if last <= here:
            return b""
        if self._misses(first):
            self.heard.hole = True
        if first <= here:
            batch = b"".join(frame for cursor, frame in frames.split(batch) if cursor > here)
        if last.attempt != here.attempt:
            self.heard.next_attempt(self._last)
        self._attempt, self._seq = last
        self._last = frames.last_event(batch)
        self._blind = False
        self.at_rest = self._last in frames.RESTING
        return self.heard.follow(batch)

    async def next(self) -> bytes:
        """What is heard next, or a comment if nothing comes for `silence` seconds; b"" if there is nothing more to be
        heard, or something is missing: then the stream is to be read again.
        """
        while not (self._lost or self.ended):
            if not self._waiting:
                if await self._behind():
                    break
                if not self._waiting and await self._silent():
                    self._lost = True
                    return PING
            elif self._takes(self._waiting[0]):
                self._unsure = False
                return self._deltas()
            elif self._misses(frames.first_cursor(self._waiting[0])):
                return await self._settled()
            elif fresh := self._following():
                return fresh
        return b""

    def close(self) -> None:
        """Let go of the clock."""
        if self._alarm is not None:
            self._alarm.cancel()

    def _deltas(self) -> bytes:
        """The batch that was taken, and those that follow it as simply: a busy process sends them together."""
        taken = self._waiting.popleft()
        while self._waiting and len(taken) < TOGETHER and self._takes(self._waiting[0]):
            taken += self._waiting.popleft()
        return taken

    def _following(self) -> bytes:
        """What is new of the next message, behind which nothing is missing."""
        self._unsure = False
        fresh = self.fresh(self._waiting.popleft())
        if self.at_rest:
            self.ended = not self.heard.hole
            self._lost = not self.ended
        return fresh

    async def _behind(self) -> bool:
        """Whether the stream is to be read once more: after a wait, unless the next message comes before that."""
        if not (self._unsure and (self._blind or self._last == "thread.message.delta")):
            return False
        before = self.cursor
        self._waiter = self._loop.create_future()
        alarm = self._loop.call_at(self._sure_at, self._wake)
        try:
            await self._waiter
        finally:
            alarm.cancel()
        self._unsure = self.cursor == before  # otherwise the outlet was given what came next
        return self._lost or (self._unsure and not self._waiting)

    async def _settled(self) -> bytes:
        """Wait until what is missing before a message is in the stream. Returns a comment if that was looked for in
        vain for so long that one is due: it never comes if its writer is lost, and the next has nothing to say yet.
        """
        now, place = self._loop.time(), self.cursor
        if now >= self._sure_at:  # it was missed since then
            self._sure_at = now + SETTLED
        if place != self._missing[0]:
            self._missing = (place, now)
        await asyncio.sleep(self._sure_at - now)
        if self._loop.time() - self._missing[1] < self._silence:
            return b""
        self._missing = (place, self._loop.time())
        self._lost = True
        return PING

    async def _silent(self) -> bool:
        """Wait for more; whether nothing came for so long that it must be asked why."""
        self._heard_at = self._loop.time()
        if self._alarm is None:
            self._alarm = self._loop.call_later(self._silence, self._look)
        self._waiter = self._loop.create_future()
        return await self._waiter

    def _takes(self, batch: bytes) -> bool:
        """Whether a batch is what comes next, and deltas of a message only: then it is heard, and relayed as it is."""
        seq = self._seq + 1
        if not batch.startswith(NEXT % (self._attempt, seq)) or self.heard.hole:
            return False
        if batch.find(b"\n\nid: ") >= 0:  # several
            if batch.count(b"\nevent: ") != batch.count(DELTA):
                return False
            _, seq = frames.last_cursor(batch)
        self._seq = seq
        self._last, self.at_rest = "thread.message.delta", False
        self.heard.add(batch)
        return True

    def _misses(self, first: Cursor) -> bool:
        """Whether something is missing before a frame."""
        if first.attempt == self._attempt:
            return first.seq > self._seq + 1
        return first.attempt > self._attempt and first.seq > 1

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
