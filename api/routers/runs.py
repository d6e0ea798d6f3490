"""/v1/threads/{thread_id}/runs, and /v1/threads/runs."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from api import document, sse
from api.dependencies import Departure, Events, OpenResources, ProjectId, Rests, Transaction
from api.errors import QUEUEING, RESPONSES
from api.polling import advice
from api.responses import page, reply
from api.waiting import while_connected
from orchestrator import lifecycle, model_names, runs
from orchestrator.events.frames import START
from orchestrator.foreign import Json
from orchestrator.settings import Settings
from orchestrator.wire import objects
from orchestrator.wire.requests import (
    CreateRun,
    CreateThreadAndRun,
    IncludeQuery,
    ListQuery,
    ModifyRun,
    SubmitToolOutputs,
    WaitQuery,
)

router = APIRouter(prefix="/threads", tags=["Runs"], responses=RESPONSES)

LastEventId = Annotated[str | None, Header(description="The id of the last event that the client has seen.")]


@router.post("/runs", operation_id="createThreadAndRun", responses={**document.ok("Run", streams=True), **QUEUEING})
async def create_with_thread(
    body: CreateThreadAndRun, session: Transaction, project_id: ProjectId, resources: OpenResources, events: Events
) -> Response:
    """Create a thread and run it; with `stream`, answer with the run's events."""
    settings = resources.settings
    model_names.check(settings, body.model)
    run = await runs.create_with_thread(session, project_id, body, lifetime=settings.run_lifetime)
    return events.of(run.thread_id, run.id, START) if body.stream else _reply(objects.run(run), settings)


@router.post("/{thread_id}/runs", operation_id="createRun", responses={**document.ok("Run", streams=True), **QUEUEING})
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
    model_names.check(settings, body.model)
    lifetime, room = settings.run_lifetime, settings.waiting_runs
    run = await runs.create(session, project_id, thread_id, body, lifetime=lifetime, room=room)
    return events.of(run.thread_id, run.id, START) if body.stream else _reply(objects.run(run), settings)


@router.get("/{thread_id}/runs", operation_id="listRuns", responses=document.page("Run"))
async def list_(
    thread_id: str, query: Annotated[ListQuery, Query()], session: Transaction, project_id: ProjectId
) -> Response:
    """List a thread's runs, newest first unless asked otherwise."""
    rows, more = await runs.list_(session, project_id, thread_id, query)
    return page(map(objects.run, rows), has_more=more)


@router.get("/{thread_id}/runs/{run_id}", operation_id="getRun", responses=document.ok("Run"))
async def retrieve(
    thread_id: str,
    run_id: str,
    query: Annotated[WaitQuery, Query()],
    request: Request,
    session: Transaction,
    project_id: ProjectId,
    resources: OpenResources,
    rests: Rests,
    departure: Departure,
) -> Response:
    """Retrieve a run; with `wait` (an extension), once it is over or waits for outputs, or after so many seconds."""
    run = await runs.retrieve(session, project_id, thread_id, run_id)

    async def look() -> bool:
        nonlocal run
        async with resources.database.transaction() as fresh:
            run = await runs.retrieve(fresh, project_id, thread_id, run_id)
        return lifecycle.at_rest(run)

    if query.wait and not lifecycle.at_rest(run):
        await session.commit()  # whoever waits holds no connection
        with departure.awaited() as leaving:
            if not await while_connected(request.receive, rests.watch(run_id, query.wait, look), leaving):
                await look()
    return _reply(objects.run(run), resources.settings)


@router.post("/{thread_id}/runs/{run_id}", operation_id="modifyRun", responses=document.ok("Run"))
async def modify(
    thread_id: str,
    run_id: str,
    body: ModifyRun,
    session: Transaction,
    project_id: ProjectId,
    resources: OpenResources,
) -> Response:
    """Modify a run's metadata."""
    run = await runs.modify(session, project_id, thread_id, run_id, body)
    return _reply(objects.run(run), resources.settings)


@router.post("/{thread_id}/runs/{run_id}/cancel", operation_id="cancelRun", responses=document.ok("Run"))
async def cancel(
    thread_id: str, run_id: str, session: Transaction, project_id: ProjectId, resources: OpenResources
) -> Response:
    """Cancel a run that is not over."""
    return _reply(await runs.cancel(session, project_id, thread_id, run_id), resources.settings)


@router.post(
    "/{thread_id}/runs/{run_id}/submit_tool_outputs",
    operation_id="submitToolOuputsToRun",
    responses=document.ok("Run", streams=True),
)
async def submit_tool_outputs(
    thread_id: str,
    run_id: str,
    body: SubmitToolOutputs,
    session: Transaction,
    project_id: ProjectId,
    resources: OpenResources,
    events: Events,
) -> Response:
    """Answer the tool calls that a run waits for; with `stream`, answer with the events that follow."""
    run, cursor, step_id = await runs.submit_tool_outputs(session, project_id, thread_id, run_id, body)
    if body.stream:
        return events.of(run.thread_id, run.id, cursor, step_id)
    return _reply(objects.run(run), resources.settings)


@router.get(
    "/{thread_id}/runs/{run_id}/events",
    operation_id="followRun",
    response_class=StreamingResponse,
    responses=document.streamed(),
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
    return events.of(run.thread_id, run.id, after)


def _reply(run: Json, settings: Settings) -> Response:
    """A run; while it moves, with how long to wait before asking for it again."""
    return reply(run, advice(run, settings))
