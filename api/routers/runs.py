"""/v1/threads/{thread_id}/runs, and /v1/threads/runs."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse

from api import sse
from api.dependencies import Events, OpenResources, ProjectId, Transaction
from api.errors import RESPONSES
from api.responses import page, reply
from orchestrator import runs
from orchestrator.events.frames import START
from orchestrator.wire import objects, schemas
from orchestrator.wire.requests import (
    CreateRun,
    CreateThreadAndRun,
    IncludeQuery,
    ListQuery,
    ModifyRun,
    SubmitToolOutputs,
)

router = APIRouter(prefix="/threads", tags=["Runs"], responses=RESPONSES)

LastEventId = Annotated[str | None, Header(description="The id of the last event that the client has seen.")]


@router.post("/runs", operation_id="createThreadAndRun", responses=schemas.ok(schemas.Run, streams=True))
async def create_with_thread(
    body: CreateThreadAndRun, session: Transaction, project_id: ProjectId, resources: OpenResources, events: Events
) -> Response:
    """Create a thread and run it; with `stream`, answer with the run's events."""
    lifetime = resources.settings.run_lifetime
    run = await runs.create_with_thread(session, project_id, body, lifetime=lifetime)
    return sse.stream(events, run.id, START) if body.stream else reply(objects.run(run))


@router.post("/{thread_id}/runs", operation_id="createRun", responses=schemas.ok(schemas.Run, streams=True))
async def create(
    thread_id: str,
    body: CreateRun,
    query: Annotated[IncludeQuery, Query()],
    session: Transaction,
    project_id: ProjectId,
    resources: OpenResources,
    events: Events,
) -> Response:
    """Run a thread; with `stream`, answer with the run's events."""
    settings = resources.settings
    lifetime, room = settings.run_lifetime, settings.waiting_runs
    run = await runs.create(session, project_id, thread_id, body, lifetime=lifetime, room=room)
    return sse.stream(events, run.id, START) if body.stream else reply(objects.run(run))


@router.get("/{thread_id}/runs", operation_id="listRuns", responses=schemas.ok(schemas.Page[schemas.Run]))
async def list_(
    thread_id: str, query: Annotated[ListQuery, Query()], session: Transaction, project_id: ProjectId
) -> Response:
    """List a thread's runs, newest first unless asked otherwise."""
    rows, more = await runs.list_(session, project_id, thread_id, query)
    return page(map(objects.run, rows), has_more=more)


@router.get("/{thread_id}/runs/{run_id}", operation_id="getRun", responses=schemas.ok(schemas.Run))
async def retrieve(thread_id: str, run_id: str, session: Transaction, project_id: ProjectId) -> Response:
    """Retrieve a run."""
    return reply(objects.run(await runs.retrieve(session, project_id, thread_id, run_id)))


@router.post("/{thread_id}/runs/{run_id}", operation_id="modifyRun", responses=schemas.ok(schemas.Run))
async def modify(thread_id: str, run_id: str, body: ModifyRun, session: Transaction, project_id: ProjectId) -> Response:
    """Modify a run's metadata."""
    return reply(objects.run(await runs.modify(session, project_id, thread_id, run_id, body)))


@router.post("/{thread_id}/runs/{run_id}/cancel", operation_id="cancelRun", responses=schemas.ok(schemas.Run))
async def cancel(thread_id: str, run_id: str, session: Transaction, project_id: ProjectId) -> Response:
    """Cancel a run that is not over."""
    return reply(await runs.cancel(session, project_id, thread_id, run_id))


@router.post(
    "/{thread_id}/runs/{run_id}/submit_tool_outputs",
    operation_id="submitToolOuputsToRun",
    responses=schemas.ok(schemas.Run, streams=True),
)
async def submit_tool_outputs(
    thread_id: str,
    run_id: str,
    body: SubmitToolOutputs,
    session: Transaction,
    project_id: ProjectId,
    events: Events,
) -> Response:
    """Answer the tool calls that a run waits for; with `stream`, answer with the events that follow."""
    run, cursor = await runs.submit_tool_outputs(session, project_id, thread_id, run_id, body)
    return sse.stream(events, run.id, cursor) if body.stream else reply(objects.run(run))


@router.get(
    "/{thread_id}/runs/{run_id}/events",
    operation_id="followRun",
    response_class=StreamingResponse,
    responses=schemas.ok(None, streams=True),
)
async def follow(
    thread_id: str,
    run_id: str,
    session: Transaction,
    project_id: ProjectId,
    events: Events,
    last_event_id: LastEventId = None,
) -> Response:
    """Follow a run that may be under way: its events from the first, or from the one after `Last-Event-ID`.

    An extension: the original had no such operation.
    """
    after = sse.cursor(last_event_id, START)
    run = await runs.retrieve(session, project_id, thread_id, run_id)
    return sse.stream(events, run.id, after)
