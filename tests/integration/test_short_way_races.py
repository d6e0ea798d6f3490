"""Requests for the same thread that meet on the short way: one is done, the others are not, and none is half done."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa

from orchestrator import runs
from orchestrator.errors import InvalidRequest
from orchestrator.plain import statements
from orchestrator.resources import Resources
from orchestrator.tables import Run
from orchestrator.wire.requests import CreateRun
from tests.integration.short_way import HI, ShortWay, outputs

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


async def held_back(
    scene: ShortWay, statement: str, *arguments: Json, then: Callable[[], Awaitable[object]] | None = None
) -> list[Json]:
    """The answer of a statement that began before something happened, and went on when that was done: a run was created
    on the thread, unless told otherwise.
    """
    async with scene.bare.database.engine.connect() as other:
        await other.execute(sa.text("SELECT pg_advisory_lock(4711)"))
        statement = statement.replace("json_to_recordset($1::json)", HELD_BACK)
        asking = asyncio.create_task(scene.direct.fetch(statement, *arguments))
        try:
            async with asyncio.timeout(60):
                while not (await other.execute(WAITING)).scalar_one():  # noqa: ASYNC110  # Postgres tells nobody
                    await asyncio.sleep(0.01)
            await (then or scene.create)()
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


async def test_outputs_are_not_those_of_calls_that_came_while_they_were_on_their_way(scene: ShortWay) -> None:
    """The model server gives the same ids to the calls of each turn, and some other client was faster."""
    run = await scene.asking("call_0")
    asked = {"project_id": scene.project_id, "thread_id": run.thread_id, "id": run.id, "at": 1}

    async def answered_and_asking_again() -> None:
        resumed = await scene.plain().submit_tool_outputs(scene.project_id, run.thread_id, run.id, outputs("call_0"))
        assert resumed is not None
        await scene.asking("call_0", run=resumed.run)

    late = [{**asked, "outputs": {"call_0": "late"}, "ids": ["call_0"]}]
    done = await held_back(scene, statements.SUBMIT_TOOL_OUTPUTS, late, 871, None, then=answered_and_asking_again)

    assert done == []
    stored = await scene.stored(run.thread_id)
    assert [each["status"] for each in stored["runs"]] == ["requires_action"]
    given = [step["step_details"]["tool_calls"][0]["function"]["output"] for step in stored["steps"]]
    assert given == ["Output of call_0", None]


async def test_outputs_go_to_a_run_whose_metadata_was_changed_while_they_were_on_their_way(scene: ShortWay) -> None:
    run = await scene.asking("call_0")
    asked = {"project_id": scene.project_id, "thread_id": run.thread_id, "id": run.id, "at": 1}
    given = [{**asked, "outputs": {"call_0": "late"}, "ids": ["call_0"]}]

    done = await held_back(
        scene, statements.SUBMIT_TOOL_OUTPUTS, given, 871, None, then=lambda: scene.set_(run, metadata_={"k": "v"})
    )

    assert [statements.RUN.values(row[: len(statements.RUN)])["metadata_"] for row in done] == [{"k": "v"}]
    (stored,) = (await scene.stored(run.thread_id))["runs"]
    assert (stored["status"], stored["attempt"], stored["metadata"]) == ("queued", run.attempt + 1, {"k": "v"})


async def test_of_many_who_answer_a_run_at_once_one_counts(scene: ShortWay) -> None:
    ways = [scene.plain() for _ in range(4)]  # as of so many processes
    for _ in range(5):
        run = await scene.asking("call_0", "call_1")
        given = [outputs("call_0", "call_1", said=f"{number}") for number in range(8)]
        asked = [(way, body) for way, body in zip(ways * 2, given, strict=True)]
        made = await asyncio.gather(
            *(way.submit_tool_outputs(scene.project_id, run.thread_id, run.id, body) for way, body in asked)
        )

        assert [each.run.attempt for each in made if each] == [run.attempt + 1]
        (counted,) = [number for number, each in enumerate(made) if each]
        (step,) = (await scene.stored(run.thread_id))["steps"]
        said = [call["function"]["output"] for call in step["step_details"]["tool_calls"]]
        assert said == [f"{counted} of call_0", f"{counted} of call_1"]
        await _refused(scene, run, given[0])


async def _refused(scene: ShortWay, run: Run, body: Json) -> None:
    async with scene.bare.database.transaction() as session:
        with pytest.raises(InvalidRequest, match='in status "queued" do not accept'):
            await runs.submit_tool_outputs(session, scene.project_id, run.thread_id, run.id, body)
