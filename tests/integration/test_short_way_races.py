"""Requests for the same thread that meet on the short way: one is done, the others are not, and none is half done."""

import asyncio
from typing import Any

import pytest_asyncio
import sqlalchemy as sa

from orchestrator.plain import statements
from orchestrator.resources import Resources
from orchestrator.wire.requests import CreateRun
from tests.integration.short_way import HI, ShortWay

Json = Any


@pytest_asyncio.fixture
async def scene(bare: Resources, project_id: str) -> ShortWay:
    return await ShortWay.to_a_new_thread(bare, project_id)


async def test_of_many_creators_at_once_one_gets_the_thread(scene: ShortWay) -> None:
    ways = [scene.plain() for _ in range(4)]  # as of so many processes
    body = CreateRun(assistant_id=scene.assistant_id, additional_messages=[HI])
    for _ in range(10):
        thread_id = await scene.another()
        made = await asyncio.gather(
            *(way.create_run(scene.project_id, thread_id, body) for way in ways for _ in range(3))
        )

        stored = await scene.stored(thread_id)
        assert len([each for each in made if each]) == 1
        assert (len(stored["runs"]), len(stored["messages"])) == (1, 1)


HELD_BACK = "json_to_recordset((SELECT $1::json FROM (SELECT pg_advisory_xact_lock(4711)) AS held_back))"
"""What was asked, once a lock is free: the statement's view of the tables is older than whatever it finds then."""

WAITING = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted")


async def held_back(scene: ShortWay, statement: str, *arguments: Json) -> list[Json]:
    """The answer of a statement that began before a run was created on the thread, and went on when that was done."""
    async with scene.bare.database.engine.connect() as other:
        await other.execute(sa.text("SELECT pg_advisory_lock(4711)"))
        statement = statement.replace("json_to_recordset($1::json)", HELD_BACK)
        asking = asyncio.create_task(scene.direct.fetch(statement, *arguments))
        try:
            async with asyncio.timeout(60):
                while not (await other.execute(WAITING)).scalar_one():  # noqa: ASYNC110  # Postgres tells nobody
                    await asyncio.sleep(0.01)
            await scene.create()
        finally:
            await other.execute(sa.text("SELECT pg_advisory_unlock(4711)"))
        return await asking


async def test_a_message_does_not_pass_a_run_that_was_created_while_it_was_on_its_way(scene: ShortWay) -> None:
    message = {"id": "msg_late", "at": 1, "role": "user", "content": [], "attachments": [], "metadata": {}}
    asked = [{**message, "project_id": scene.project_id, "thread_id": scene.thread_id}]

    assert await held_back(scene, statements.ADD_MESSAGES, asked) == []

    assert await scene.said() == []


async def test_a_run_does_not_pass_one_that_was_created_while_it_was_on_its_way(scene: ShortWay) -> None:
    run = {"id": "run_late", "at": 1, "lifetime": 600, "metadata": {}, "assistant_id": scene.assistant_id}
    message = {"id": "msg_late_too", "role": "user", "content": [], "attachments": [], "metadata": {}}
    asked = [{**run, "project_id": scene.project_id, "thread_id": scene.thread_id, "messages": [message]}]

    assert await held_back(scene, statements.CREATE_RUNS, asked, 871, None) == []

    assert len(await scene.all()) == 1
    assert await scene.said() == []
