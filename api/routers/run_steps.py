"""/v1/threads/{thread_id}/runs/{run_id}/steps."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from api import document
from api.dependencies import ProjectId, Transaction
from api.errors import RESPONSES
from api.responses import page, reply
from orchestrator import closing, run_steps
from orchestrator.wire import objects
from orchestrator.wire.requests import IncludeQuery, ListRunStepsQuery

router = APIRouter(prefix="/threads/{thread_id}/runs/{run_id}/steps", tags=["Run steps"], responses=RESPONSES)


@router.get("", operation_id="listRunSteps", responses=document.page("RunStep"))
async def list_(
    thread_id: str,
    run_id: str,
    query: Annotated[ListRunStepsQuery, Query()],
    session: Transaction,
    project_id: ProjectId,
) -> Response:
    """List a run's steps, newest first unless asked otherwise."""
    run, rows, more = await run_steps.list_(session, project_id, thread_id, run_id, query)
    return page((objects.run_step(row, closing.expiry(run)) for row in rows), has_more=more)


@router.get("/{step_id}", operation_id="getRunStep", responses=document.ok("RunStep"))
async def retrieve(
    thread_id: str,
    run_id: str,
    step_id: str,
    query: Annotated[IncludeQuery, Query()],
    session: Transaction,
    project_id: ProjectId,
) -> Response:
    """Retrieve a run step."""
    run, row = await run_steps.retrieve(session, project_id, thread_id, run_id, step_id)
    return reply(objects.run_step(row, closing.expiry(run)))
