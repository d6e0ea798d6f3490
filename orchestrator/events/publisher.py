"""Sends what happened: one writer per process carries all runs' frames, wake-ups and signals to Redis.

Whatever waits is sent in one round trip: frames of a run travel together as one message, and are appended to its
stream, most deltas a little later (see `tails`). The first thing after a pause leaves at once; what follows may wait
`event_window` for company. What a run begins or ends with, and wake-ups, wait only behind others of their kind. Frames
always go before wake-ups of the same batch, so a worker never publishes ahead of the transition that woke it.

Redis holds nothing that Postgres does not know, and may be away, or refuse to be written to. Then what could not be
sent waits, within bounds, and is sent in order once Redis is back. Some of it may have arrived: the stream refuses ids
that it has, listeners drop frames that they have heard, and a wake-up is good for one attempt. Nobody who acts for a
client waits for a Redis that is away.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import hiredis
import structlog
from redis.asyncio import Redis

from orchestrator.background import background
from orchestrator.events.backlog import Backlog, Batch
from orchestrator.events.frames import Frame
from orchestrator.events.line import Answers, Shared, pack
from orchestrator.events.tails import Attempt, Tails
from orchestrator.settings import Settings

log = structlog.get_logger(__name__)

SLICE = 1024 * 1024
"""Bytes of frames in one round trip."""
WAKEUPS = 10_000
"""Wake-ups, and signals, that may wait while Redis is away; beyond, the oldest go: housekeeping sends again."""
PATIENCE = 1.0
"""Longest that `flush` waits; after that, nobody waits until Redis answers again."""
RETRIES = (0.1, 1.0)
"""Seconds between attempts while Redis is away: the first, and the longest."""
PROBE = "assistantd:probe"
"""A key that is written to see whether Redis takes writes again."""
CANCELS = "runs:cancel"
"""The channel on which a cancelled run's id reaches the worker that is at it."""
REFUSALS = ("OOM", "READONLY", "MISCONF", "NOREPLICAS", "MASTERDOWN", "LOADING", "BUSY", "NOPERM", "NOAUTH")
"""What Redis says while it takes no writes; what else it refuses would be refused again."""


def stream_key(run_id: str) -> str:
    """The Redis key of a run's event stream; also the channel on which the same frames are published."""
    return f"run:{run_id}:events"


class Publisher:
    """The one writer of a process. Use it as an async context manager; `flush` waits until what was given is sent.

    `away` says that the last attempt to send failed.
    """

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.away = False
        self._slow = False
        self._line = Shared(redis, settings.redis_timeout)
        self._window = settings.event_window
        self._timeout = settings.redis_timeout
        self._frames = Backlog()
        self._firm: set[Attempt] = set()
        """Attempts of which more than deltas wait."""
        self._tails = Tails(stream_key, settings.run_lifetime + settings.event_ttl)
        self._pushes: deque[tuple[str, bytes]] = deque(maxlen=WAKEUPS)
        self._signals: deque[tuple[str, str]] = deque(maxlen=WAKEUPS)
        self._wanted = asyncio.Event()
        self._hurry = asyncio.Event()
        self._sending = asyncio.Lock()
        self._sent: asyncio.Future[None] | None = None
        self._last = 0.0
        self._hastened = self._spoken = 0.0
        self._pause = 0.0
        self._reminder: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Publisher"]:
        """Send in the background while the block runs; what is left at its end is sent before it returns, if Redis
        takes it within `redis_timeout`.
        """
        async with background(self._run(), "publisher"):
            try:
                yield self
            finally:
                await self._empty()
        if self._reminder is not None:
            self._reminder.cancel()
        await self._line.close()

    def frame(self, frame: Frame) -> None:
        """Publish a frame soon. Frames of one run keep their order."""
        self._frames.add(frame)
        self._firm.add((frame.run_id, frame.cursor.attempt))
        self._wanted.set()
        self._hasten()

    def frames(self, frames: Batch) -> None:
        """Publish some deltas of one attempt soon, in order. Nothing else: their stream gets them later than others."""
        self._frames.extend(frames)
        self._wanted.set()

    def delta(self, frame: Frame) -> None:
        """The same with one: most come alone. While others wait, it is known already that there are some."""
        if self._frames.add(frame) == 1:
            self._wanted.set()

    def events(self, frames: Batch) -> None:
        """Publish some frames of one attempt, in order, as soon as single ones."""
        self._frames.extend(frames)
        self._firm.add((frames[0].run_id, frames[0].cursor.attempt))
        self._wanted.set()
        self._hasten()

    def first_word(self, frames: Batch) -> None:
        """Publish the first words of a message: soon, although its announcement may just have been sent in haste."""
        self._frames.extend(frames)
        self._wanted.set()
        now = asyncio.get_running_loop().time()
        if now - self._spoken >= self._window:
            self._spoken = now
            self._hurry.set()

    def push(self, queue: str, message: bytes) -> None:
        """Put a message at the end of a broker's queue, after all frames given so far."""
        self._pushes.append((queue, message))
        self._wanted.set()
        self._hasten()

    def signal(self, channel: str, message: str) -> None:
        """Tell whoever listens on `channel` now."""
        self._signals.append((channel, message))
        self._wanted.set()

    async def flush(self) -> None:
        """Return when everything given before was sent, or cannot be sent soon. Never raises for Redis' sake."""
        if self.away or self._slow:
            return
        try:
            async with asyncio.timeout(PATIENCE):
                await self._all_sent()
        except TimeoutError:
            self._slow = True

    async def _all_sent(self) -> None:
        if not self._wanted.is_set():
            async with self._sending:  # what was given may be on its way
                return
        if self._sent is None:
            self._sent = asyncio.get_running_loop().create_future()
        self._hurry.set()
        await asyncio.shield(self._sent)

    async def _empty(self) -> None:
        self._tails.hurry()
        if self._tails.due() is not None:
            self._wanted.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                while self._wanted.is_set() or self._sending.locked():
                    await self._all_sent()
        if self._wanted.is_set():
            log.warning("events_lost", frames=len(self._frames), wakeups=len(self._pushes))

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wanted.wait()
            pause = self._last + (self._pause or self._window) - loop.time()
            if pause > 0:
                await (asyncio.sleep(pause) if self.away else self._company(pause))
            async with self._sending:
                await self._send()
            self._last = loop.time()
            if self._reminder is None and (due := self._tails.due()) is not None:
                self._reminder = loop.call_at(due, self._remind)

    def _remind(self) -> None:
        """Something has waited long enough to be appended."""
        self._reminder = None
        self._wanted.set()

    def _hasten(self) -> None:
        """Send without waiting for company, once a window: else a busy process would send everything alone."""
        now = asyncio.get_running_loop().time()
        if now - self._hastened >= self._window:
            self._hastened = now
            self._hurry.set()

    async def _company(self, seconds: float) -> None:
        """Let frames wait for others, unless somebody waits for them."""
        window = asyncio.get_running_loop().call_later(seconds, self._hurry.set)
        try:
            await self._hurry.wait()
        finally:
            window.cancel()

    async def _send(self) -> None:
        batches = self._frames.take(SLICE)
        self._wanted.clear()
        self._hurry.clear()
        if len(self._frames):  # the rest comes next, and wake-ups behind all frames
            self._wanted.set()
            trouble = await self._attempt(batches, [], [])
            self._note(trouble)
            if trouble is not None:
                self._give_back([], [])
            return
        pushes, self._pushes = list(self._pushes), deque(maxlen=WAKEUPS)
        signals, self._signals = list(self._signals), deque(maxlen=WAKEUPS)
        sent, self._sent = self._sent, None
        trouble = await self._attempt(batches, pushes, signals)
        self._note(trouble)
        if trouble is not None:
            self._give_back(pushes, signals)
        if sent is not None and not sent.done():
            sent.set_result(None)

    def _give_back(self, pushes: list[tuple[str, bytes]], signals: list[tuple[str, str]]) -> None:
        batches = self._tails.taken_back()
        self._firm.update((batch[0].run_id, batch[0].cursor.attempt) for batch in batches)
        self._frames.give_back(batches)
        self._pushes = deque((*pushes, *self._pushes), maxlen=WAKEUPS)
        self._signals = deque((*signals, *self._signals), maxlen=WAKEUPS)
        self._wanted.set()

    async def _attempt(
        self, batches: list[Batch], pushes: list[tuple[str, bytes]], signals: list[tuple[str, str]]
    ) -> str | None:
        """Send; returns what is wrong with Redis, if it is: all of this has to be sent again then."""
        try:
            # Messages of what cannot be kept would be heard again and again.
            commands = [pack("SET", PROBE, b"", "EX", 60)] if self.away else []
            commands += self._tails.commands(batches, self._firm, asyncio.get_running_loop().time())
            if not len(self._frames):  # otherwise some of theirs may be to come
                self._firm.clear()
            commands += [pack("LPUSH", *push) for push in pushes]
            commands += [pack("PUBLISH", *signal) for signal in signals]
            return _refusal(await self._line.ask(b"".join(commands), len(commands))) if commands else None
        except (TypeError, ValueError):  # it would be refused again, and hold up all that follows
            log.exception("events_not_sendable")
        except Exception as error:  # whatever it was: a sender that ends would send nothing for ever
            return repr(error)
        return None

    def _note(self, trouble: str | None) -> None:
        if trouble is not None and not self.away:
            log.warning("redis_away", error=trouble)
        elif trouble is None and self.away:
            log.info("redis_back", frames=len(self._frames))
        self.away, self._slow = trouble is not None, False
        self._pause = min(max(2 * self._pause, RETRIES[0]), RETRIES[1]) if self.away else 0.0


def _refusal(answers: Answers) -> str | None:
    """Why Redis does not take writes, if it does not; what else it refuses would be refused again."""
    for answer in answers if hiredis.ReplyError in set(map(type, answers)) else ():
        if type(answer) is not hiredis.ReplyError:
            continue
        if str(answer).startswith(REFUSALS):
            return repr(answer)
        if "equal or smaller" not in str(answer):
            log.error("event_refused", error=str(answer))
    return None
