"""Requests and workers that meet at the same object: one after the other, never a deadlock, never an error of ours."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import sqlalchemy as sa
from sqlmodel import col

from orchestrator import assistants, lifecycle, messages, runs, threads
from orchestrator.db import Session
from orchestrator.errors import NotFound
from orchestrator.execution import scribe
from orchestrator.resources import Resources
from orchestrator.tables import Assistant, Message, Run, Thread
from orchestrator.wire.requests import (
    CreateAssistant,
    CreateMessage,
    CreateRun,
    ModifyAssistant,
    ModifyMessage,
    ModifyThread,
)

DEADLINE = 60.0

Verb = Callable[[Session], Awaitable[object]]


async def in_transaction(bare: Resources, verb: Verb) -> object:
    async with bare.database.transaction() as session:
        return await verb(session)


async def until_somebody_waits_for_a_lock(bare: Resources) -> None:
    waiting = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(DEADLINE), bare.database.engine.connect() as connection:
        while not (await connection.execute(waiting)).scalar_one():
            await connection.rollback()  # statistics are a snapshot of the transaction


async def conversation(bare: Resources, project_id: str) -> tuple[Assistant, Thread, Message]:
    async with bare.database.transaction() as session:
        assistant = await assistants.create(session, project_id, CreateAssistant(model="gpt-4o"))
        thread = await threads.create(session, project_id, None)
        message = await messages.create(session, project_id, thread.id, CreateMessage(role="user", content="Hi"))
        return assistant, thread, message


@pytest.mark.parametrize("second", ["modify", "delete"])
@pytest.mark.parametrize("noun", ["assistant", "thread", "message"])
async def test_what_is_being_deleted_is_not_found_by_whoever_comes_second(
    bare: Resources, project_id: str, noun: str, second: str
) -> None:
    assistant, thread, message = await conversation(bare, project_id)
    verbs: dict[str, tuple[Verb, Verb]] = {
        "assistant": (
            lambda session: assistants.delete(session, project_id, assistant.id),
            lambda session: assistants.modify(session, project_id, assistant.id, ModifyAssistant(name="new")),
        ),
        "thread": (
            lambda session: threads.delete(session, project_id, thread.id),
            lambda session: threads.modify(session, project_id, thread.id, ModifyThread(metadata={"new": "yes"})),
        ),
        "message": (
            lambda session: messages.delete(session, project_id, thread.id, message.id),
            lambda session: messages.modify(
                session, project_id, thread.id, message.id, ModifyMessage(metadata={"new": "yes"})
            ),
        ),
    }
    delete, modify = verbs[noun]

    async with bare.database.transaction() as session:
        await delete(session)
        await session.flush()
        late = asyncio.create_task(in_transaction(bare, modify if second == "modify" else delete))
        await until_somebody_waits_for_a_lock(bare)

    with pytest.raises(NotFound):
        await asyncio.wait_for(late, DEADLINE)


async def test_a_thread_is_deleted_behind_the_line_that_a_worker_writes(bare: Resources, project_id: str) -> None:
    assistant, thread, _ = await conversation(bare, project_id)
    body = CreateRun(assistant_id=assistant.id)
    run = await in_transaction(bare, lambda session: runs.create(session, project_id, thread.id, body, lifetime=600))
    assert isinstance(run, Run)
    async with bare.database.transaction() as session:
        claimed = await lifecycle.claim(session, run.id, "1", 60)
    assert claimed is not None

    async with bare.database.transaction() as session:
        await lifecycle.hold(session, claimed[0])
        deleting = asyncio.create_task(
            in_transaction(bare, lambda session: threads.delete(session, project_id, thread.id))
        )
        await until_somebody_waits_for_a_lock(bare)
        await scribe.open_message(session, claimed[0])

    assert await asyncio.wait_for(deleting, DEADLINE) == thread.id
    async with bare.database.transaction() as session:
        left = await session.execute(sa.select(Message).where(col(Message.thread_id) == thread.id))
        assert left.scalars().all() == []
