"""/v1/threads."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from api import document
from api.dependencies import ProjectId, Transaction
from api.errors import RESPONSES
from api.responses import page, reply
from orchestrator import threads
from orchestrator.wire import objects
from orchestrator.wire.requests import CreateThread, ListQuery, ListThreadsQuery, ModifyThread

router = APIRouter(prefix="/threads", tags=["Threads"], responses=RESPONSES)

METADATA: dict[str, Any] = {
    "name": "metadata",
    "in": "query",
    "style": "deepObject",
    "explode": True,
    "description": "Threads whose metadata has all of these pairs: `metadata[key]=value` for each.",
    "schema": {
        "type": "object",
        "maxProperties": 16,
        "propertyNames": {"maxLength": 64},
        "additionalProperties": {"type": "string", "maxLength": 512},
    },
}
PARAMETERS: list[dict[str, Any]] = [
    *(
        {"name": name, "in": "query", "schema": schema}
        for name, schema in ListQuery.model_json_schema()["properties"].items()
    ),
    METADATA,
]
"""The query of the list, in our own words: FastAPI would document `metadata` in the style `form`."""


@router.post("", operation_id="createThread", responses=document.ok("Thread"))
async def create(session: Transaction, project_id: ProjectId, body: CreateThread | None = None) -> Response:
    """Create a thread, with messages if the body brings any."""
    return reply(objects.thread(await threads.create(session, project_id, body)))


@router.get(
    "",
    operation_id="listThreads",
    responses=document.page("Thread"),
    openapi_extra={"parameters": PARAMETERS},
)
async def list_(
    query: Annotated[ListThreadsQuery, Query(include_in_schema=False)], session: Transaction, project_id: ProjectId
) -> Response:
    """List the project's threads, newest first unless asked otherwise; with `metadata[key]=value`, those that have it.

    An extension: the original had no such operation.
    """
    rows, more = await threads.list_(session, project_id, query)
    return page(map(objects.thread, rows), has_more=more)


@router.get("/{thread_id}", operation_id="getThread", responses=document.ok("Thread"))
async def retrieve(thread_id: str, session: Transaction, project_id: ProjectId) -> Response:
    """Retrieve a thread."""
    return reply(objects.thread(await threads.retrieve(session, project_id, thread_id)))


@router.post("/{thread_id}", operation_id="modifyThread", responses=document.ok("Thread"))
async def modify(thread_id: str, body: ModifyThread, session: Transaction, project_id: ProjectId) -> Response:
    """Modify a thread: what the body does not name stays as it is."""
    return reply(objects.thread(await threads.modify(session, project_id, thread_id, body)))


@router.delete("/{thread_id}", operation_id="deleteThread", responses=document.ok("Deleted"))
async def delete(thread_id: str, session: Transaction, project_id: ProjectId) -> Response:
    """Delete a thread with its messages, runs and run steps."""
    return reply(objects.deleted("thread", await threads.delete(session, project_id, thread_id)))
