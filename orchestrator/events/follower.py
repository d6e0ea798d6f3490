"""Hears a run to its rest: what was told before, then what is told now, each frame once and in order.

    listen to the channel ─▶ read the stream from the cursor ─▶ relay messages newer than that
             ▲                                                          │
             └───────── a number is missing, or the buffer ran over ◀───┘

A run is at rest in `requires_action` and in every terminal status. Pub/sub may lose messages and Redis may lose
streams: frames are numbered, so a gap is seen and read again, and a silent or empty stream is checked against Postgres,
whose outcome closes it. Where frames are lost for good nothing is relayed behind the hole: once the run is at rest, the
outcome brings what the listener has missed. A listener that reads slowly fills only its own bounded buffer.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from orchestrator.events import frames
from orchestrator.events.frames import START, Cursor
from orchestrator.events.heard import Heard
from orchestrator.events.publisher import stream_key
from orchestrator.events.subscriber import Subscriber
from orchestrator.foreign import Json
from orchestrator.settings import Settings

log = structlog.get_logger(__name__)

PING = b": ping\n"
"""A comment, without an empty line: after an `id:`, official clients would take that for an event without data."""
BUFFER = 1000
"""Messages that wait for a slow listener before it has to read the stream again."""
PAGE = 500
"""Stream entries read at once."""

ON_ITS_WAY = 0.2
"""Seconds that the end of a run, of which Postgres knows, has to reach Redis: from there it comes with its ids."""
AWAY = 2.0
"""Seconds between two looks at a run while Redis is away."""

Outcome = Callable[[str, Heard, bool], Awaitable[bytes | None]]
"""The closing frames of a run that stands still, from Postgres; None while it moves.

They end what the listener has heard of; if the last argument says so, they bring what it has not heard of, too.
"""


class Follower:
    """Lets any number of listeners of this process follow any runs."""

    def __init__(self, redis: Redis, subscriber: Subscriber, outcome: Outcome, settings: Settings) -> None:
        self._redis = redis
        self._subscriber = subscriber
        self._outcome = outcome
        self._silence = settings.stream_ping

    async def follow(self, run_id: str, after: Cursor, answered: str | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the run's frames after `after` (whole frames, several at once) until it is at rest; comments in
        between.

        Ends with the frame that says how the run came to rest. Outlasts Redis: while it is away, Postgres is asked.
        Whoever listens from a run's rest on names the step that was `answered`: what was before is no news.
        """
        listener = _Listener(after, answered)
        while not listener.ended:
            try:
                async with self._subscriber.listening(stream_key(run_id), listener.hear):
                    async for batch in self._listen(run_id, listener):
                        yield batch
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("stream_interrupted", run_id=run_id, error=repr(error))
                yield PING
                if closing := await self._outcome(run_id, listener.heard, True):
                    yield closing
                    return
                await asyncio.sleep(AWAY)

    async def _listen(self, run_id: str, listener: "_Listener") -> AsyncGenerator[bytes, None]:
        while not listener.ended:
            told = False
            async for batch in self._stored(run_id, listener):
                told = True
                yield batch
            if not told and (closing := await self._closing(run_id, listener)):
                await asyncio.sleep(ON_ITS_WAY)
                async for batch in self._stored(run_id, listener):  # it may have been told while Postgres was asked
                    told = True
                    yield batch
                if not told:
                    listener.ended = True
                    yield closing
                continue
            if not (listener.ended or (told and listener.at_rest)):  # at rest behind a hole: the rest is looked for
                async for batch in listener.live(self._silence):
                    yield batch

    async def _stored(self, run_id: str, listener: "_Listener") -> AsyncGenerator[bytes, None]:
        listener.forget()
        key = stream_key(run_id)
        since = f"({listener.cursor}"
        while True:
            page: Json = await self._redis.xrange(key, min=since, count=PAGE)
            for _, fields in page:
                if fresh := listener.fresh(fields[b"f"]):
                    yield fresh
            if len(page) < PAGE:
                listener.ended = listener.at_rest and not listener.heard.hole
                return
            since = f"({page[-1][0].decode()}"

    async def _closing(self, run_id: str, listener: "_Listener") -> bytes | None:
        """The closing frames for a listener that the stream has nothing more to tell."""
        last: Json = await self._redis.xrevrange(stream_key(run_id), count=1)
        told = bool(last) and _ends(last[0][1][b"f"], listener.cursor)
        everything = listener.heard.hole or (listener.cursor != START and not told)
        return await self._outcome(run_id, listener.heard, everything)


def _ends(batch: bytes, cursor: Cursor) -> bool:
    """Whether a listener that has come to the cursor has heard with this batch that the run is at rest: not if it went
    on since, for outputs, and all that followed is lost.
    """
    return frames.last_event(batch) in frames.RESTING and frames.last_cursor(batch) >= cursor


class _Listener:
    """What one client has heard, and what waits for it."""

    def __init__(self, after: Cursor, answered: str | None) -> None:
        self.cursor = after
        self.heard = Heard(after, answered)
        self.at_rest = False
        self.ended = False
        self._last = "thread.run.created"
        self._waiting: deque[bytes] = deque()
        self._lost = False
        self._heard = asyncio.Event()

    def hear(self, batch: bytes | None) -> None:
        """Take a message; None, or one too many, means that the stream must be read again."""
        if batch is None or len(self._waiting) >= BUFFER:
            self._lost = True
            self._waiting.clear()
        elif not self._lost:
            self._waiting.append(batch)
        self._heard.set()

    def forget(self) -> None:
        """Start afresh: the stream is about to be read."""
        self._lost = False

    def fresh(self, batch: bytes) -> bytes:
        """The part of a batch that is new to this listener and may be relayed; the cursor moves behind the batch.

        The batch comes from the stream, or follows the cursor: what is missing before it is lost.
        """
        last = frames.last_cursor(batch)
        if last <= self.cursor:
            return b""
        if self._gap(batch):
            self.heard.hole = True
        if frames.first_cursor(batch) <= self.cursor:
            batch = b"".join(frame for cursor, frame in frames.split(batch) if cursor > self.cursor)
        if last.attempt != self.cursor.attempt:
            self.heard.next_attempt(self._last)
        self.cursor = last
        self._last = frames.last_event(batch)
        self.at_rest = self._last in frames.RESTING
        return self.heard.follow(batch)

    async def live(self, silence: float) -> AsyncGenerator[bytes, None]:
        """Yield what is heard until the run is at rest, something is missing, or nothing came for `silence` seconds."""
        while True:
            while self._waiting and not self._lost:
                batch = self._waiting.popleft()
                if self._gap(batch):
                    return
                if fresh := self.fresh(batch):
                    yield fresh
                if self.at_rest:
                    self.ended = not self.heard.hole
                    return
            if self._lost:
                return
            self._heard.clear()
            try:
                async with asyncio.timeout(silence):
                    await self._heard.wait()
            except TimeoutError:
                yield PING
                return

    def _gap(self, batch: bytes) -> bool:
        first = frames.first_cursor(batch)
        if first.attempt == self.cursor.attempt:
            return first.seq > self.cursor.seq + 1
        return first.attempt > self.cursor.attempt and first.seq > 1
