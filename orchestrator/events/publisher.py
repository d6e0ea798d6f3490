"""Sends what happened: one writer per process carries all runs' frames, wake-ups and signals to Redis.

Whatever waits is sent in one round trip: frames of a run travel together as one stream entry and one message of the
same bytes. The first thing after a pause leaves at once; what follows may wait `event_window` for company. Frames
always go before wake-ups of the same batch, so a worker never publishes ahead of the transition that woke it. Redis
holds nothing that Postgres does not know: when a batch cannot be sent it is dropped and logged, listeners get the
outcome from Postgres, and housekeeping enqueues again.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ResponseError

from orchestrator.background import background
from orchestrator.events import frames
from orchestrator.events.frames import Frame
from orchestrator.settings import Settings

log = structlog.get_logger(__name__)

BACKLOG = 50_000
"""Frames that may wait while Redis is away; beyond, new ones are dropped."""
ENTRIES = 20_000
"""Entries that a run's stream keeps."""
CANCELS = "runs:cancel"
"""The channel on which a cancelled run's id reaches the worker that is at it."""


def stream_key(run_id: str) -> str:
    """The Redis key of a run's event stream; also the channel on which the same bytes are published."""
    return f"run:{run_id}:events"


class Publisher:
    """The one writer of a process. Use it as an async context manager; `flush` waits until what was given is sent."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._window = settings.event_window
        self._ttl = settings.run_lifetime + settings.event_ttl
        self._frames: dict[tuple[str, int], list[Frame]] = {}
        self._waiting = 0
        self._dropped = 0
        self._pushes: list[tuple[str, bytes]] = []
        self._signals: list[tuple[str, str]] = []
        self._wanted = asyncio.Event()
        self._sending = asyncio.Lock()
        self._sent: asyncio.Future[None] | None = None
        self._last = 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Publisher"]:
        """Send in the background while the block runs; what is left at its end is sent before it returns."""
        async with background(self._run(), "publisher"):
            try:
                yield self
            finally:
                await self.flush()

    def frame(self, frame: Frame) -> None:
        """Publish a frame soon. Frames of one run keep their order."""
        if self._waiting >= BACKLOG:
            self._dropped += 1
            return
        self._waiting += 1
        self._frames.setdefault((frame.run_id, frame.cursor.attempt), []).append(frame)
        self._wanted.set()

    def push(self, queue: str, message: bytes) -> None:
        """Put a message at the end of a broker's queue, after all frames given so far."""
        self._pushes.append((queue, message))
        self._wanted.set()

    def signal(self, channel: str, message: str) -> None:
        """Tell whoever listens on `channel` now."""
        self._signals.append((channel, message))
        self._wanted.set()

    async def flush(self) -> None:
        """Return when everything given before was sent (or dropped: see above). Never raises for Redis' sake."""
        if not self._wanted.is_set():
            async with self._sending:  # what was given may be on its way
                return
        if self._sent is None:
            self._sent = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._sent)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wanted.wait()
            pause = self._last + self._window - loop.time()
            if pause > 0 and self._sent is None:
                await asyncio.sleep(pause)
            async with self._sending:
                await self._send()
            self._last = loop.time()

    async def _send(self) -> None:
        batches, self._frames, self._waiting = self._frames, {}, 0
        pushes, self._pushes = self._pushes, []
        signals, self._signals = self._signals, []
        sent, self._sent = self._sent, None
        self._wanted.clear()
        if self._dropped:
            log.warning("events_dropped", frames=self._dropped)
            self._dropped = 0
        pipe = self._redis.pipeline(transaction=False)
        for (run_id, _), batch in batches.items():
            self._append(pipe, run_id, batch)
        for queue, message in pushes:
            pipe.lpush(queue, message)
        for channel, text in signals:
            pipe.publish(channel, text)
        await self._execute(pipe, runs=len(batches), wakeups=len(pushes))
        if sent is not None and not sent.done():
            sent.set_result(None)

    async def _execute(self, pipe: Pipeline, **counts: int) -> None:
        try:
            for result in await pipe.execute(raise_on_error=False):
                if isinstance(result, ResponseError) and "equal or smaller" not in str(result):
                    log.error("event_refused", error=str(result))
        except Exception as error:  # whatever it was: a sender that ends would let every `flush` wait for ever
            log.warning("events_dropped", **counts, error=repr(error))

    def _append(self, pipe: Pipeline, run_id: str, batch: list[Frame]) -> None:
        key = stream_key(run_id)
        data = b"".join(frame.data for frame in batch)
        pipe.xadd(key, {"f": data}, id=str(batch[-1].cursor), maxlen=ENTRIES, approximate=True)
        pipe.publish(key, data)
        if batch[0].cursor.seq == 1 or frames.last_event(data) in frames.RESTING:  # the end, too: Redis may lose a key
            pipe.expire(key, self._ttl)
