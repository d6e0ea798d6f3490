"""/v1/threads."""

from fastapi import APIRouter, Response

from api.dependencies import ProjectId, Transaction
from api.errors import RESPONSES
from api.responses import reply
from orchestrator import threads
from orchestrator.wire import objects, schemas
from orchestrator.wire.requests import CreateThread, ModifyThread

router = APIRouter(prefix="/threads", tags=["Threads"], responses=RESPONSES)


@router.post("", operation_id="createThread", responses=schemas.ok(schemas.Thread))
async def create(session: Transaction, project_id: ProjectId, body: CreateThread | None = None) -> Response:
    """Create a thread, with messages if the body brings any."""
    return reply(objects.thread(await threads.create(session, project_id, body)))


@router.get("/{thread_id}", operation_id="getThread", responses=schemas.ok(schemas.Thread))
async def retrieve(thread_id: str, session: Transaction, project_id: ProjectId) -> Response:
    """Retrieve a thread."""
    return reply(objects.thread(await threads.retrieve(session, project_id, thread_id)))


@router.post("/{thread_id}", operation_id="modifyThread", responses=schemas.ok(schemas.Thread))
async def modify(thread_id: str, body: ModifyThread, session: Transaction, project_id: ProjectId) -> Response:
    """Modify a thread: what the body does not name stays as it is."""
    return reply(objects.thread(await threads.modify(session, project_id, thread_id, body)))


@router.delete("/{thread_id}", operation_id="deleteThread", responses=schemas.ok(schemas.Deleted))
async def delete(thread_id: str, session: Transaction, project_id: ProjectId) -> Response:
    """Delete a thread with its messages, runs and run steps."""
    return reply(objects.deleted("thread", await threads.delete(session, project_id, thread_id)))
