"""The threads' verbs, and what a thread's other nouns need of it: its messages in order, and the run that owns it."""

from collections.abc import Sequence

from sqlalchemy import select, text
from sqlmodel import col

from orchestrator import closing, ids, message_files, turns
from orchestrator.db import Session
from orchestrator.errors import NotFound
from orchestrator.foreign import Json
from orchestrator.pages import page
from orchestrator.tables import IS_ACTIVE, Message, Run, Thread
from orchestrator.wire import objects
from orchestrator.wire.requests import (
    CreateMessage,
    CreateThread,
    ImageFilePart,
    ImageUrlPart,
    ListThreadsQuery,
    ModifyThread,
    TextPart,
)


async def create(session: Session, project_id: str, body: CreateThread | None) -> Thread:
    """Store a new thread with the messages that it brings along."""
    body = body or CreateThread()
    thread = Thread(project_id=project_id, **settings(body))
    session.add(thread)
    await session.flush()
    await add_messages(session, thread, body.messages)
    return thread


def settings(body: CreateThread) -> dict[str, Json]:
    """The columns of a new thread that the client decides."""
    return {
        "metadata_": body.metadata,
        "tool_resources": body.tool_resources.model_dump(exclude_unset=True) if body.tool_resources else {},
        "on_active_run": body.on_active_run or "reject",
    }


async def retrieve(session: Session, project_id: str, thread_id: str, *, lock: bool = False) -> Thread:
    """The thread; with `lock`, nobody else locks it before this transaction ends. Raises InvalidRequest, NotFound."""
    ids.check("thread_id", "thread_", thread_id)
    query = select(Thread).where(col(Thread.id) == thread_id, col(Thread.project_id) == project_id)
    if lock:
        query = query.with_for_update(key_share=True)
    thread = (await session.execute(query)).scalar_one_or_none()
    if thread is None:
        raise NotFound("thread", thread_id)
    return thread


async def list_(session: Session, project_id: str, query: ListThreadsQuery) -> tuple[list[Thread], bool]:
    """A page of the project's threads whose metadata has all pairs of the query, and whether there are more."""
    scope = [col(Thread.project_id) == project_id]
    if query.metadata:
        # Without the pairs Postgres takes them for common: it would walk all threads to find a user's few.
        await session.execute(text("SET LOCAL plan_cache_mode = force_custom_plan"))
        scope.append(col(Thread.metadata_).contains(query.metadata))
    return await page(session, Thread, query, *scope)


async def modify(session: Session, project_id: str, thread_id: str, body: ModifyThread) -> Thread:
    """Change what the body names."""
    thread = await retrieve(session, project_id, thread_id, lock=True)
    if "metadata" in body.model_fields_set:
        thread.metadata_ = body.metadata
    if "tool_resources" in body.model_fields_set:
        thread.tool_resources = body.tool_resources.model_dump(exclude_unset=True) if body.tool_resources else {}
    if "on_active_run" in body.model_fields_set:
        thread.on_active_run = body.on_active_run or "reject"
    await session.flush()
    return thread


async def delete(session: Session, project_id: str, thread_id: str) -> str:
    """Remove the thread with its messages, runs and run steps; runs that are not over are cancelled first. Returns its
    id.
    """
    thread = await retrieve(session, project_id, thread_id, lock=True)
    # A run's row is locked before the thread's goes: its worker, in the middle of a line, needs both.
    for run in await closing.unfinished(session, thread_id):
        await closing.cancel(session, run)  # whoever follows it hears the end
        session.signal_cancel(run.id)  # and its worker does not let the model talk on
    await session.delete(thread)
    return thread_id


async def active_run(session: Session, thread_id: str) -> str | None:
    """The id of the run that owns the thread, if there is one."""
    query = select(col(Run.id)).where(col(Run.thread_id) == thread_id, IS_ACTIVE)
    return (await session.execute(query)).scalar_one_or_none()


async def add_messages(session: Session, thread: Thread, bodies: Sequence[CreateMessage]) -> list[Message]:
    """Add messages in their order, whatever runs: for those who hold the thread. Raises InvalidRequest."""
    return await turns.add(session, thread.id, await columns(session, thread, bodies))


async def columns(session: Session, thread: Thread, bodies: Sequence[CreateMessage]) -> list[turns.Columns]:
    """Messages as they are stored, or kept until they may be. Raises InvalidRequest for files that will not do."""
    await message_files.check(session, thread.project_id, bodies)
    return [message_columns(body) for body in bodies]


def message_columns(body: CreateMessage) -> turns.Columns:
    """A message as it is stored, whatever files it names."""
    said = body.content
    return {
        "role": body.role,
        "content": [objects.text_part(said)] if isinstance(said, str) else [_part(part) for part in said],
        "attachments": [each.model_dump(exclude_unset=True) for each in body.attachments or ()],
        "metadata_": body.metadata,
    }


def _part(part: TextPart | ImageUrlPart | ImageFilePart) -> Json:
    if isinstance(part, TextPart):
        return objects.text_part(part.text)
    return part.model_dump(exclude_unset=True)
