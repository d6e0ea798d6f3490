"""A worker that is about to end hands its runs over: at a checkpoint while there is time, in the middle afterwards."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlmodel import col

from orchestrator import runs
from orchestrator.db import Database, Session
from orchestrator.events.frames import Track
from orchestrator.events.publisher import stream_key
from orchestrator.execution.plain import Opened, Plain, PlainForms
from orchestrator.execution.runner import Runner
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.tables import Message, RunAttempt, RunStep
from tests.fakes.model_control import RemoteModelServer
from tests.fakes.replies import Reply
from tests.integration.scene import all_sent
from tests.integration.test_runner import DEADLINE, found, queued, scripted, until

__all__ = ["scripted"]

TOOLS = [{"type": "function", "function": {"name": "a_tool"}}]
CALL = Reply.tool_calls(("no_such_tool", {}))
"""A call that the worker answers itself."""
Asked = Callable[[], list[int]]


@pytest.fixture
def asked(scripted: RemoteModelServer) -> Asked:
    """How many messages each question had so far."""
    return lambda: [len(request["body"]["messages"]) for request in scripted.requests()]


class Noting(Database):
    """A database that notes which wake-ups follow from its transactions."""

    def __init__(self, database: Database) -> None:
        super().__init__(database.engine, database.publisher)
        self.woken: list[tuple[Any, ...]] = []

    @asynccontextmanager
    async def transaction(self, track: Track | None = None) -> AsyncIterator[Session]:
        async with super().transaction(track) as session:
            yield session
        self.woken += session.wakeups


def a_runner(bare: Resources, settings: Settings, database: Database | None = None) -> Runner:
    return Runner(database or bare.database, bare.model, "9", settings)


async def outcomes(bare: Resources, run_id: str) -> list[str | None]:
    async with bare.database.transaction() as session:
        query = sa.select(col(RunAttempt.outcome)).where(col(RunAttempt.run_id) == run_id)
        return list((await session.execute(query.order_by(col(RunAttempt.attempt)))).scalars())


async def events(bare: Resources, run_id: str) -> list[tuple[str, Any]]:
    """What was told of a run: names without their prefix, and data."""
    await all_sent(bare)
    told = []
    entries: Any = await bare.redis.xrange(stream_key(run_id))
    for _, fields in entries:
        for frame in fields[b"f"].split(b"\n\n")[:-1]:
            _, name, data = frame.split(b"\n")
            told.append((name.decode().removeprefix("event: thread."), orjson.loads(data.removeprefix(b"data: "))))
    return told


async def at_gate(scripted: RemoteModelServer, gate: str) -> None:
    waiting = lambda state: state["gates"].get(gate, {}).get("waiting") == 1  # noqa: E731
    await asyncio.to_thread(scripted.wait_for, waiting)


async def test_a_run_is_handed_over_once_its_turn_is_written_and_no_turn_is_asked_for_twice(
    bare: Resources, bare_settings: Settings, project_id: str, scripted: RemoteModelServer, asked: Asked
) -> None:
    await asyncio.to_thread(scripted.script, CALL.held("turn"), CALL, Reply.text("It rains."))
    run = await queued(bare, project_id, "Weather?")
    database = Noting(bare.database)
    leaving = a_runner(bare, bare_settings, database)
    carrying = asyncio.create_task(leaving.run(run.id))
    await at_gate(scripted, "turn")

    leaving.drain()
    await asyncio.to_thread(scripted.release, "turn")
    await asyncio.wait_for(carrying, DEADLINE)

    left = await found(bare, run.id)
    assert (left.status, left.owner) == ("in_progress", None)
    assert database.woken == [("runs.execute", (run.id, left.attempt))]
    assert await asyncio.to_thread(asked) == [1]
    await asyncio.wait_for(a_runner(bare, bare_settings).run(run.id), DEADLINE)
    assert (await found(bare, run.id)).status == "completed"
    assert await asyncio.to_thread(asked) == [1, 3, 5]
    assert await outcomes(bare, run.id) == ["handed over", "completed"]
    names = [name for name, _ in await events(bare, run.id)]
    assert not {"message.incomplete", "run.step.failed"} & set(names)


async def test_a_run_that_ends_with_the_turn_under_way_ends_where_it_is(
    bare: Resources, bare_settings: Settings, project_id: str, scripted: RemoteModelServer, asked: Asked
) -> None:
    await asyncio.to_thread(scripted.script, Reply.text("It rains.").held("turn", after=1))
    run = await queued(bare, project_id, "Weather?")
    leaving = a_runner(bare, bare_settings)
    carrying = asyncio.create_task(leaving.run(run.id))
    await at_gate(scripted, "turn")

    leaving.drain()
    await asyncio.to_thread(scripted.release, "turn")
    await asyncio.wait_for(carrying, DEADLINE)

    assert (await found(bare, run.id)).status == "completed"
    assert await asyncio.to_thread(asked) == [1]


async def test_what_was_heard_of_a_turn_that_is_cut_is_kept_and_told(
    bare: Resources, bare_settings: Settings, project_id: str, scripted: RemoteModelServer, asked: Asked
) -> None:
    said = Reply.text("One two three.")
    await asyncio.to_thread(scripted.script, said.held("turn", after=2), said)
    run = await queued(bare, project_id, "Count!")
    leaving = a_runner(bare, bare_settings)
    carrying = asyncio.create_task(leaving.run(run.id))
    await at_gate(scripted, "turn")
    await until(bare, sa.select(Message).where(col(Message.run_id) == run.id))
    async with asyncio.timeout(DEADLINE):
        while not any(name == "message.delta" for name, _ in await events(bare, run.id)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    leaving.drain()
    leaving.drain(now=True)
    await asyncio.wait_for(carrying, DEADLINE)

    left = await found(bare, run.id)
    assert (left.status, left.owner) == ("in_progress", None)
    told = await events(bare, run.id)
    heard = "".join(data["delta"]["content"][0]["text"]["value"] for name, data in told if name == "message.delta")
    assert [name for name, _ in told][-2:] == ["message.incomplete", "run.step.failed"]
    assert heard in ("One", "One two")
    assert told[-2][1]["content"][0]["text"]["value"] == heard
    assert told[-1][1]["last_error"]["message"].startswith("The worker was stopped")
    torn = await until(bare, sa.select(Message).where(col(Message.run_id) == run.id))
    assert (torn.status, torn.content[0]["text"]["value"]) == ("incomplete", heard)
    await asyncio.wait_for(a_runner(bare, bare_settings).run(run.id), DEADLINE)
    assert (await found(bare, run.id)).status == "completed"
    assert await asyncio.to_thread(asked) == [1, 1]  # what was torn stays out of the prompt


async def test_of_a_turn_that_is_cut_before_its_first_word_nothing_is_left(
    bare: Resources, bare_settings: Settings, project_id: str, scripted: RemoteModelServer, asked: Asked
) -> None:
    await asyncio.to_thread(scripted.script, Reply.text("Late.").held("turn"), Reply.text("One."))
    run = await queued(bare, project_id, "Count!")
    leaving = a_runner(bare, bare_settings)
    carrying = asyncio.create_task(leaving.run(run.id))
    torn = await until(bare, sa.select(Message).where(col(Message.run_id) == run.id))

    leaving.drain(now=True)
    await asyncio.wait_for(carrying, DEADLINE)

    told = await events(bare, run.id)
    assert [name for name, _ in told][-2:] == ["message.incomplete", "run.step.failed"]
    assert told[-2][1]["id"] == torn.id
    async with bare.database.transaction() as session:
        for table in ("messages", "run_steps"):
            of_run = sa.text(f"SELECT count(*) FROM {table} WHERE run_id = :run")  # noqa: S608  # our own names
            assert (await session.execute(of_run, {"run": run.id})).scalar() == 0
    await asyncio.wait_for(a_runner(bare, bare_settings).run(run.id), DEADLINE)
    assert (await found(bare, run.id)).status == "completed"
    said = await until(bare, sa.select(Message).where(col(Message.run_id) == run.id))
    assert said.content[0]["text"]["value"] == "One."
    assert await asyncio.to_thread(asked) == [1, 1]


async def test_of_a_turn_that_is_cut_while_its_message_is_opened_nothing_is_left(
    bare: Resources,
    bare_settings: Settings,
    project_id: str,
    scripted: RemoteModelServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await asyncio.to_thread(scripted.script, Reply.text("Late.").held("turn"), Reply.text("One."))
    run = await queued(bare, project_id, "Count!")
    leaving = a_runner(bare, bare_settings)
    opens = PlainForms.message

    def open_and_leave(forms: PlainForms, *new: str) -> Plain[Opened]:
        form = opens(forms, *new)

        def told(row: Any) -> Opened:
            leaving.drain(now=True)
            return form.told(row)

        return Plain(form.asked, form.send, told)

    monkeypatch.setattr(PlainForms, "message", open_and_leave)
    await asyncio.wait_for(leaving.run(run.id), DEADLINE)

    assert [name for name, _ in await events(bare, run.id)][-2:] == ["message.incomplete", "run.step.failed"]
    monkeypatch.undo()
    await asyncio.wait_for(a_runner(bare, bare_settings).run(run.id), DEADLINE)
    assert (await found(bare, run.id)).status == "completed"
    said = await until(bare, sa.select(Message).where(col(Message.run_id) == run.id))
    assert said.content[0]["text"]["value"] == "One."


async def test_calls_that_are_cut_while_they_arrive_leave_a_failed_step_and_nothing_to_answer(
    bare: Resources, bare_settings: Settings, project_id: str, scripted: RemoteModelServer, asked: Asked
) -> None:
    await asyncio.to_thread(scripted.script, CALL.held("turn", after=1), Reply.text("It rains."))
    run = await queued(bare, project_id, "Weather?", tools=TOOLS)
    leaving = a_runner(bare, bare_settings)
    carrying = asyncio.create_task(leaving.run(run.id))
    await until(bare, sa.select(RunStep).where(col(RunStep.run_id) == run.id))

    leaving.drain(now=True)
    await asyncio.wait_for(carrying, DEADLINE)
    await asyncio.wait_for(a_runner(bare, bare_settings).run(run.id), DEADLINE)

    assert (await found(bare, run.id)).status == "completed"
    assert await asyncio.to_thread(asked) == [1, 1]
    async with bare.database.transaction() as session:
        query = sa.select(RunStep).where(col(RunStep.run_id) == run.id).order_by(col(RunStep.position))
        steps = (await session.execute(query)).scalars().all()
    assert [(step.type, step.status) for step in steps] == [
        ("tool_calls", "failed"),
        ("message_creation", "completed"),
    ]


async def test_a_wake_up_that_comes_too_late_for_a_worker_wakes_another_one(
    bare: Resources, bare_settings: Settings, project_id: str
) -> None:
    run = await queued(bare, project_id, "Hi")
    database = Noting(bare.database)
    leaving = a_runner(bare, bare_settings, database)

    leaving.drain()
    await leaving.run(run.id, run.attempt)
    await leaving.run(run.id)

    assert (await found(bare, run.id)).status == "queued"
    assert database.woken == [("runs.execute", (run.id, run.attempt)), ("runs.execute", (run.id,))]
    async with bare.database.transaction() as session:
        await runs.cancel(session, project_id, run.thread_id, run.id)


async def test_a_run_that_is_cancelled_while_it_is_handed_over_ends_at_once(
    bare: Resources, bare_settings: Settings, project_id: str, scripted: RemoteModelServer
) -> None:
    await asyncio.to_thread(scripted.script, Reply.text("One two three.").held("turn", after=1))
    run = await queued(bare, project_id, "Count!")
    leaving = a_runner(bare, bare_settings)
    carrying = asyncio.create_task(leaving.run(run.id))
    await until(bare, sa.select(Message).where(col(Message.run_id) == run.id))
    async with bare.database.transaction() as session:
        await runs.cancel(session, project_id, run.thread_id, run.id)  # whose signal nobody hears here

    leaving.drain(now=True)
    await asyncio.wait_for(carrying, DEADLINE)

    assert (await found(bare, run.id)).status == "cancelled"
