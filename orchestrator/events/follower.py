"""Hears a run to its rest: what was told before, then what is told now, each frame once and in order.

    listen to the channel ─▶ read the stream from the cursor ─▶ relay messages newer than that
             ▲                                                          │
             └───────── a number is missing, or the buffer ran over ◀───┘

The stream may be behind what is told: where something is missing, it is read a moment later (see `tails`).

A run is at rest in `requires_action` and in every terminal status. Pub/sub may lose messages and Redis may lose
streams: frames are numbered, so a gap is seen and read again, and a silent or empty stream is checked against Postgres,
whose outcome closes it. Where frames are lost for good nothing is relayed behind the hole: once the run is at rest, the
outcome brings what the listener has missed. A listener that reads slowly fills only its own bounded buffer.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import structlog
from redis.exceptions import RedisError

from orchestrator.events import frames
from orchestrator.events.frames import START, Cursor
from orchestrator.events.heard import Heard
from orchestrator.events.listener import PING, Listener, Outlet
from orchestrator.events.publisher import stream_key
from orchestrator.events.subscriber import Subscriber
from orchestrator.foreign import Json
from orchestrator.settings import Settings

log = structlog.get_logger(__name__)

PAGE = 100
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

    def __init__(self, subscriber: Subscriber, outcome: Outcome, settings: Settings) -> None:
        self._subscriber = subscriber
        self._outcome = outcome
        self._silence = settings.stream_ping

    async def follow(
        self, run_id: str, after: Cursor, answered: str | None = None, outlet: Outlet | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the run's frames after `after` (whole frames, several at once) until it is at rest; comments in
        between.

        Ends with the frame that says how the run came to rest. Outlasts Redis: while it is away, Postgres is asked.
        Whoever listens from a run's rest on names the step that was `answered`: what was before is no news. With an
        `outlet`, some frames go there in place of being yielded, while the next are asked for.
        """
        listener = Listener(after, answered, self._silence, outlet)
        try:
            while True:
                try:
                    async with self._subscriber.listening(stream_key(run_id), listener.hear):
                        async for batch in self._listen(run_id, listener):
                            yield batch
                    return
                except (RedisError, OSError, TimeoutError) as error:
                    log.warning("stream_interrupted", run_id=run_id, error=repr(error))
                    listener.hear(None)
                    yield PING
                    if closing := await self._outcome(run_id, listener.heard, True):
                        yield closing
                        return
                    await asyncio.sleep(AWAY)
        finally:
            listener.close()

    async def _listen(self, run_id: str, listener: Listener) -> AsyncGenerator[bytes, None]:
        """Listen until the run is at rest, which ends it. Raises RedisError, OSError or TimeoutError."""
        closing: bytes | None = None
        while not listener.ended:
            listener.forget()
            told, since = False, str(listener.cursor)
            while since:
                fresh, since = await self._page(run_id, listener, since)
                if fresh:
                    told = True
                    yield fresh
            if not told and closing:
                yield closing
                return
            closing = None if told else await self._closing(run_id, listener)
            if closing:
                await asyncio.sleep(ON_ITS_WAY)  # it may have been told while Postgres was asked
            elif not (told and listener.at_rest):  # at rest behind a hole: the rest is looked for
                while batch := await listener.next():
                    yield batch

    async def _page(self, run_id: str, listener: Listener, since: str) -> tuple[bytes, str]:
        """What is new of the next entries of the stream, and the id of the last one if there may be more."""
        page: Json = await self._subscriber.read("XRANGE", stream_key(run_id), f"({since}", "+", "COUNT", PAGE)
        fresh = b"".join([listener.fresh(fields[1]) for _, fields in page])
        if len(page) == PAGE:
            return fresh, page[-1][0].decode()
        listener.ended = listener.at_rest and not listener.heard.hole
        return fresh, ""

    async def _closing(self, run_id: str, listener: Listener) -> bytes | None:
        """The closing frames for a listener that the stream has nothing more to tell."""
        last: Json = await self._subscriber.read("XREVRANGE", stream_key(run_id), "+", "-", "COUNT", 1)
        told = bool(last) and _ends(last[0][1][1], listener.cursor)
        everything = listener.heard.hole or (listener.cursor != START and not told)
        return await self._outcome(run_id, listener.heard, everything)


def _ends(batch: bytes, cursor: Cursor) -> bool:
    """Whether a listener that has come to the cursor has heard with this batch that the run is at rest: not if it went
    on since, for outputs, and all that followed is lost.
    """
    return frames.rests(batch) and frames.last_cursor(batch) >= cursor
