"""/v1/threads/{thread_id}/messages."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from api import document
from api.dependencies import ProjectId, Transaction
from api.errors import RESPONSES
from api.responses import page, reply
from orchestrator import messages
from orchestrator.wire import objects
from orchestrator.wire.requests import CreateMessage, ListMessagesQuery, ModifyMessage

router = APIRouter(prefix="/threads/{thread_id}/messages", tags=["Messages"], responses=RESPONSES)


@router.post("", operation_id="createMessage", responses=document.ok("Message"))
async def create(thread_id: str, body: CreateMessage, session: Transaction, project_id: ProjectId) -> Response:
    """Add a message to a thread; refused while a run is active."""
    return reply(objects.message(await messages.create(session, project_id, thread_id, body)))


@router.get("", operation_id="listMessages", responses=document.page("Message"))
async def list_(
    thread_id: str, query: Annotated[ListMessagesQuery, Query()], session: Transaction, project_id: ProjectId
) -> Response:
    """List a thread's messages, newest first unless asked otherwise."""
    rows, more = await messages.list_(session, project_id, thread_id, query)
    return page(map(objects.message, rows), has_more=more)


@router.get("/{message_id}", operation_id="getMessage", responses=document.ok("Message"))
async def retrieve(thread_id: str, message_id: str, session: Transaction, project_id: ProjectId) -> Response:
    """Retrieve a message."""
    return reply(objects.message(await messages.retrieve(session, project_id, thread_id, message_id)))


@router.post("/{message_id}", operation_id="modifyMessage", responses=document.ok("Message"))
async def modify(
    thread_id: str, message_id: str, body: ModifyMessage, session: Transaction, project_id: ProjectId
) -> Response:
    """Modify a message's metadata."""
    return reply(objects.message(await messages.modify(session, project_id, thread_id, message_id, body)))


@router.delete("/{message_id}", operation_id="deleteMessage", responses=document.ok("Deleted"))
async def delete(thread_id: str, message_id: str, session: Transaction, project_id: ProjectId) -> Response:
    """Delete a message; later runs do not see it."""
    deleted = await messages.delete(session, project_id, thread_id, message_id)
    return reply(objects.deleted("thread.message", deleted))
