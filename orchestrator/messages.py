"""The messages' verbs. A thread that a run is at work on takes no messages from outside."""

from sqlalchemy import select
from sqlmodel import col

from orchestrator import ids, threads
from orchestrator.db import Session
from orchestrator.errors import InvalidRequest, NotFound
from orchestrator.pages import page
from orchestrator.tables import Message
from orchestrator.wire.requests import CreateMessage, ListMessagesQuery, ModifyMessage


async def create(session: Session, project_id: str, thread_id: str, body: CreateMessage) -> Message:
    """Add a message to the thread. Raises InvalidRequest while a run is active."""
    thread = await threads.retrieve(session, project_id, thread_id, lock=True)
    if active := await threads.active_run(session, thread.id):
        raise InvalidRequest(f"Can't add messages to {thread.id} while a run {active} is active.")
    return (await threads.add_messages(session, thread, [body]))[0]


async def retrieve(
    session: Session, project_id: str, thread_id: str, message_id: str, *, lock: bool = False
) -> Message:
    """The message; with `lock`, its row stays locked until this transaction ends. Raises InvalidRequest for what cannot
    be its id, NotFound.
    """
    ids.check("message_id", "msg_", message_id)
    await threads.retrieve(session, project_id, thread_id)
    query = select(Message).where(col(Message.id) == message_id, col(Message.thread_id) == thread_id)
    if lock:
        query = query.with_for_update(key_share=True)
    message = (await session.execute(query)).scalar_one_or_none()
    if message is None:
        raise NotFound("message", message_id)
    return message


async def list_(
    session: Session, project_id: str, thread_id: str, query: ListMessagesQuery
) -> tuple[list[Message], bool]:
    """A page of the thread's messages, of one run if the query says so, and whether there are more."""
    await threads.retrieve(session, project_id, thread_id)
    scope = [col(Message.thread_id) == thread_id]
    if query.run_id is not None:
        scope.append(col(Message.run_id) == query.run_id)
    return await page(session, Message, query, *scope)


async def modify(session: Session, project_id: str, thread_id: str, message_id: str, body: ModifyMessage) -> Message:
    """Change the metadata; nothing else of a message ever changes."""
    message = await retrieve(session, project_id, thread_id, message_id, lock=True)
    if "metadata" in body.model_fields_set:
        message.metadata_ = body.metadata
    await session.flush()
    return message


async def delete(session: Session, project_id: str, thread_id: str, message_id: str) -> str:
    """Remove the message: later runs do not see it. Returns its id."""
    await session.delete(await retrieve(session, project_id, thread_id, message_id, lock=True))
    return message_id
