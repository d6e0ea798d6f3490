"""A run's events as a response: frames are relayed as the bytes that the worker built.

The stream ends with `done` when the run is at rest, and only then: clients take it for the end. One that must end
before (the process leaves, or a part of it broke) ends with an `error` event that every official client raises, and
that says where to go on; browsers' EventSource comes back by itself. A client that goes away ends only its own stream:
the run goes on. Nothing buffers on the way: proxies are told so.
"""

import asyncio
from contextlib import aclosing, suppress

import structlog
from fastapi import Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from api.leaving import Leaving
from api.outlet import outlet
from api.waiting import while_connected
from orchestrator.echo import echo
from orchestrator.errors import InvalidRequest
from orchestrator.events.follower import Follower
from orchestrator.events.frames import DONE, START, Cursor, error_frame
from orchestrator.events.listener import PING, Outlet

log = structlog.get_logger(__name__)

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
KIND = "text/event-stream; charset=utf-8"
RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in {**HEADERS, "Content-Type": KIND}.items()]
LARGEST = 2**63 - 1
"""No part of an event's id is larger; Redis would not read it."""
RETRY = b"retry: 1000\n"
"""Milliseconds after which an EventSource comes back."""
INTERRUPTED = (
    "The event stream was interrupted. The run goes on: follow it at {path} with the id of the last event as"
    " Last-Event-ID, or retrieve it."
)
LAST_WORDS = 1.0
"""Seconds that a client has to take a farewell before its connection is cut; half as many are for introducing a run."""


class Streams:
    """Answers with runs' events, to any number of clients of this process."""

    def __init__(self, follower: Follower, leaving: Leaving) -> None:
        self._follower = follower
        self._leaving = leaving

    def of(self, thread_id: str, run_id: str, after: Cursor, answered: str | None = None) -> Response:
        """The run's events behind `after`, until it is at rest or this process leaves; `answered` as for `Follower`."""
        return EventStream(self._follower, self._leaving, thread_id, (run_id, after, answered))


class EventStream(Response):
    """One client's stream."""

    media_type = KIND

    def __init__(
        self, follower: Follower, leaving: Leaving, thread_id: str, what: tuple[str, Cursor, str | None]
    ) -> None:
        run_id, after, _ = self._what = what
        self.status_code = 200
        self.background = None
        self._path = f"/v1/threads/{thread_id}/runs/{run_id}/events"
        self.raw_headers = [*RAW_HEADERS, (b"content-location", self._path.encode())]
        self._follower = follower
        self._leaving = leaving
        self._run_id = run_id
        self._begun = after > START

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it while the client listens; otherwise raise ClientDisconnect."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        with self._leaving.awaited() as leaving:
            over = await while_connected(receive, self._relay(send, outlet(scope)), leaving)
        if not over:
            await self._interrupt(scope, send)

    async def _relay(self, send: Send, outlet: Outlet | None) -> None:
        try:
            async with aclosing(self._follower.follow(*self._what, outlet)) as batches:
                async for batch in batches:
                    await _say(send, batch)
                    if not self._begun:
                        self._begun = batch != PING
            last = DONE
        except Exception:
            log.exception("stream_broken", run_id=self._run_id)
            last = self._farewell()
        await send({"type": "http.response.body", "body": last})

    def _farewell(self) -> bytes:
        return RETRY + error_frame(INTERRUPTED.format(path=self._path), code="stream_interrupted")

    async def _interrupt(self, scope: Scope, send: Send) -> None:
        if not self._begun:
            await self._introduce(send)
        try:
            async with asyncio.timeout(LAST_WORDS):  # of its own: a busy process that was long about that says it still
                await send({"type": "http.response.body", "body": self._farewell()})
        except TimeoutError:
            if scope["client"] is not None:
                self._leaving.deaf.add(tuple(scope["client"]))
            raise ClientDisconnect from None

    async def _introduce(self, send: Send) -> None:
        """The first events: the client has not heard yet which run it is that goes on."""
        with suppress(Exception):  # whatever else is broken: the farewell names it, too
            async with (
                asyncio.timeout(LAST_WORDS / 2),
                aclosing(self._follower.follow(*self._what)) as batches,
            ):
                async for batch in batches:
                    await _say(send, batch)
                    return


def cursor(last_event_id: str | None, default: Cursor) -> Cursor:
    """Where a client that comes back left off. Raises InvalidRequest for what is no id of ours."""
    if not last_event_id:
        return default
    try:
        found = Cursor.parse(last_event_id)
        if max(found) > LARGEST:
            raise ValueError(last_event_id)
        return found
    except ValueError:
        message = f"Invalid 'Last-Event-ID': '{echo(last_event_id, 64)}'. Expected the id of an event of this run."
        raise InvalidRequest(message, param="Last-Event-ID", code="invalid_value") from None


async def _say(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})
