"""A run's events as a response: frames are relayed as the bytes that the worker built.

The stream ends with `done` when the run is at rest. A client that goes away ends only its own stream: the run goes on.
Nothing buffers on the way: proxies are told so.
"""

from collections.abc import AsyncIterator

import structlog
from fastapi.responses import StreamingResponse

from orchestrator.echo import echo
from orchestrator.errors import InvalidRequest
from orchestrator.events.follower import Follower
from orchestrator.events.frames import DONE, Cursor, error_frame

log = structlog.get_logger(__name__)

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
LARGEST = 2**63 - 1
"""No part of an event's id is larger; Redis would not read it."""
LOST = "The event stream was interrupted. The run goes on: retrieve it, or follow its events again."


def stream(follower: Follower, run_id: str, after: Cursor) -> StreamingResponse:
    """The run's events behind `after`, until it is at rest."""
    return StreamingResponse(
        _frames(follower, run_id, after), media_type="text/event-stream; charset=utf-8", headers=HEADERS
    )


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


async def _frames(follower: Follower, run_id: str, after: Cursor) -> AsyncIterator[bytes]:
    try:
        async for batch in follower.follow(run_id, after):
            yield batch
        yield DONE
    except Exception:
        log.exception("stream_broken", run_id=run_id)
        yield error_frame(LOST)
        yield DONE
