"""Housekeeping and heartbeats write many rows at once, in no order: none of them may wait while it holds what another
one waits for.
"""

import asyncio

import pytest_asyncio
import sqlalchemy as sa
from sqlmodel import col

from orchestrator import assistants, orphans, threads
from orchestrator.resources import Resources
from orchestrator.tables import Run, Thread
from orchestrator.wire.requests import CreateAssistant, CreateThread
from tests.integration.scene import Scene


@pytest_asyncio.fixture
async def scenes(bare: Resources, project_id: str) -> list[Scene]:
    """Two threads in a database that is otherwise without any."""
    async with bare.database.transaction() as session:
        await session.execute(sa.delete(Thread))
        assistant = await assistants.create(session, project_id, CreateAssistant(model="gpt-4o"))
        found = [await threads.create(session, project_id, CreateThread()) for _ in range(2)]
        return [Scene(bare, project_id, thread.id, assistant.id) for thread in found]


async def test_runs_are_woken_again_without_waiting_for_one_that_a_worker_is_about_to_claim(
    bare: Resources, scenes: list[Scene]
) -> None:
    free, locked = [await scene.create() for scene in scenes]

    async with bare.database.transaction() as claiming:
        await claiming.execute(sa.select(Run).where(col(Run.id) == locked.id).with_for_update())
        async with asyncio.timeout(60), bare.database.transaction() as session:
            woken = await orphans.wake_again(session)

    assert woken == 1
    async with bare.database.transaction() as session:
        due = await session.execute(sa.select(col(Run.id), col(Run.wake_at) <= sa.func.now()))
    assert {row[0]: row[1] for row in due} == {free.id: True, locked.id: False}
