"""A run that is carried while clients do what they may: delete its message, cancel it before it has begun."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import asyncpg
import pytest
import pytest_asyncio
import sqlalchemy as sa
import sqlalchemy.exc
from sqlalchemy.exc import DBAPIError
from sqlmodel import col

from orchestrator import assistants, housekeeping, messages, presence, runs, threads
from orchestrator.db import Database, Session
from orchestrator.errors import RunCancelled
from orchestrator.events.frames import Track
from orchestrator.execution.journal import Journal
from orchestrator.execution.runner import Runner
from orchestrator.model import Prompt
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.tables import Message, Run, RunStep
from orchestrator.wire.requests import CreateAssistant, CreateMessage, CreateRun
from tests.fakes.model_control import RemoteModelServer
from tests.fakes.replies import Reply
from tests.stack import Stack

DEADLINE = 60.0

Row = TypeVar("Row", Message, RunStep)


@pytest_asyncio.fixture
async def scripted(stack: Stack) -> AsyncIterator[RemoteModelServer]:
    """The scripted model server; whatever waits there is let go at the end."""
    await asyncio.to_thread(stack.model.reset)
    yield stack.model
    await asyncio.to_thread(stack.model.reset)


async def queued(bare: Resources, project_id: str, *said: str, **fields: object) -> Run:
    """A queued run on a thread in which the user has said something."""
    async with bare.database.transaction() as session:
        assistant = await assistants.create(session, project_id, CreateAssistant(model="gpt-4o"))
        thread = await threads.create(session, project_id, None)
        for text in said:
            await messages.create(session, project_id, thread.id, CreateMessage(role="user", content=text))
        body = CreateRun.model_validate({"assistant_id": assistant.id, **fields})
        return await runs.create(session, project_id, thread.id, body, lifetime=600)


async def until(bare: Resources, query: "sa.Select[Row]") -> Row:
    """The row, once it is there."""
    async with asyncio.timeout(DEADLINE):
        while True:
            async with bare.database.transaction() as session:
                if (found := (await session.execute(query)).scalar_one_or_none()) is not None:
                    return found
            await asyncio.sleep(0.01)


async def found(bare: Resources, run_id: str) -> Run:
    async with bare.database.transaction() as session:
        return (await session.execute(sa.select(Run).where(col(Run.id) == run_id))).scalar_one()


async def test_a_run_whose_message_is_deleted_while_it_is_written_completes_all_the_same(
    bare: Resources, bare_settings: Settings, project_id: str, scripted: RemoteModelServer
) -> None:
    await asyncio.to_thread(scripted.script, Reply.text("One two three.").held("written", after=1))
    run = await queued(bare, project_id, "Count!")
    runner = Runner(bare.database, bare.model, "9", bare_settings)
    running = asyncio.create_task(runner.run(run.id))
    message = await until(bare, sa.select(Message).where(col(Message.run_id) == run.id))
    async with bare.database.transaction() as session:
        await messages.delete(session, project_id, run.thread_id, message.id)

    await asyncio.to_thread(scripted.release, "written")
    await asyncio.wait_for(running, DEADLINE)

    ended = await found(bare, run.id)
    assert (ended.status, ended.attempt) == ("completed", 1)
    assert len(await asyncio.to_thread(scripted.requests)) == 1


async def test_a_run_that_is_over_leaves_nothing_behind_that_only_the_collector_would_find(
    bare: Resources, bare_settings: Settings, project_id: str, scripted: RemoteModelServer
) -> None:
    await asyncio.to_thread(scripted.script, Reply.text("One two three."))
    run = await queued(bare, project_id, "Count!")
    runner = Runner(bare.database, bare.model, "9", bare_settings)
    gc.collect()
    gc.disable()
    try:
        await runner.run(run.id)
        left = [type(one) for one in gc.get_objects() if type(one) in (Journal, Prompt)]
    finally:
        gc.enable()

    assert (await found(bare, run.id)).status == "completed"
    assert left == []


class Eventful(Database):
    """A database after whose first commit something happens before its caller goes on."""

    then: Callable[[], Awaitable[None]] | None = None

    @asynccontextmanager
    async def transaction(self, track: Track | None = None) -> AsyncIterator[Session]:
        async with super().transaction(track) as session:
            yield session
        if then := self.then:
            self.then = None
            await then()


async def test_a_cancel_that_overtakes_the_answer_to_the_claim_is_felt_at_once(
    bare: Resources, bare_settings: Settings, project_id: str, scripted: RemoteModelServer
) -> None:
    await asyncio.to_thread(scripted.script, Reply.hang())
    run = await queued(bare, project_id, "Hi")
    database = Eventful(bare.database.engine, bare.database.publisher)
    runner = Runner(database, bare.model, "9", bare_settings)

    async def cancel() -> None:
        async with bare.database.transaction() as session:
            await runs.cancel(session, project_id, run.thread_id, run.id)
        runner.interrupt(run.id, RunCancelled())

    database.then = cancel
    await asyncio.wait_for(runner.run(run.id), DEADLINE)

    assert (await found(bare, run.id)).status == "cancelled"


async def test_a_cancel_whose_signal_is_lost_is_felt_at_the_next_heartbeat_however_silent_the_model_is(
    bare: Resources, bare_settings: Settings, project_id: str, scripted: RemoteModelServer
) -> None:
    await asyncio.to_thread(scripted.script, Reply.hang())
    run = await queued(bare, project_id, "Hi")
    settings = bare_settings.model_copy(update={"run_lease": 0.3})
    owner = presence.new_owner()
    runner = Runner(bare.database, bare.model, owner, settings)

    async with presence.present(owner, runner, bare.database, settings):
        running = asyncio.create_task(runner.run(run.id))
        await asyncio.to_thread(scripted.wait_for, lambda state: state["requests"] == 1)
        async with bare.database.transaction() as session:
            await runs.cancel(session, project_id, run.thread_id, run.id)
        await asyncio.wait_for(running, DEADLINE)

    assert (await found(bare, run.id)).status == "cancelled"


async def test_a_run_that_is_cancelled_while_it_is_given_back_ends_at_the_next_sweep(
    bare: Resources, bare_settings: Settings, project_id: str, scripted: RemoteModelServer
) -> None:
    await asyncio.to_thread(scripted.script, Reply.hang())
    run = await queued(bare, project_id, "Hi")
    owner = presence.new_owner()
    runner = Runner(bare.database, bare.model, owner, bare_settings)

    async with presence.present(owner, runner, bare.database, bare_settings):  # the worker lives, and may for long
        running = asyncio.create_task(runner.run(run.id))
        await asyncio.to_thread(scripted.wait_for, lambda state: state["requests"] == 1)
        async with bare.database.transaction() as session:
            await runs.cancel(session, project_id, run.thread_id, run.id)
        running.cancel()
        await asyncio.wait([running])
        await housekeeping.sweep(bare.database)

        assert (await found(bare, run.id)).status == "cancelled"


async def test_the_last_messages_are_the_threads_and_not_what_the_run_itself_has_said(
    bare: Resources, bare_settings: Settings, project_id: str, scripted: RemoteModelServer
) -> None:
    await asyncio.to_thread(scripted.script, Reply.text("One two three."))
    run = await queued(
        bare, project_id, "Old", "Count!", truncation_strategy={"type": "last_messages", "last_messages": 1}
    )
    torn = Message(thread_id=run.thread_id, run_id=run.id, role="assistant", status="in_progress")
    async with bare.database.transaction() as session:
        session.add(torn)
        await session.execute(
            sa.update(Run).where(col(Run.id) == run.id).values(status="in_progress", attempt=1, owner=None)
        )

    await asyncio.wait_for(Runner(bare.database, bare.model, "9", bare_settings).run(run.id), DEADLINE)

    asked = await asyncio.to_thread(scripted.requests)
    assert [message["content"] for message in asked[0]["body"]["messages"]] == ["Count!"]


async def test_a_worker_that_does_not_get_its_lock_leaves_no_session_behind(
    bare: Resources, bare_settings: Settings
) -> None:
    url = bare_settings.database_url.get_secret_value()
    holder = await asyncpg.connect(url)
    await holder.execute("SELECT pg_advisory_lock($1, 4711)", presence.LOCK_CLASS)
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND query LIKE 'SELECT pg%advisory_lock%'"
    )

    runner = Runner(bare.database, bare.model, "4711", bare_settings)
    with pytest.raises(TimeoutError):
        await presence.present("4711", runner, bare.database, bare_settings).__aenter__()

    async with asyncio.timeout(DEADLINE):
        while await holder.fetchval(others):
            await holder.fetchval("SELECT pg_sleep(0.02)")
    await holder.close()


async def test_a_run_whose_database_connections_break_goes_on_and_pays_nothing_twice(
    bare: Resources, bare_settings: Settings, project_id: str, scripted: RemoteModelServer
) -> None:
    await asyncio.to_thread(scripted.script, Reply.text("One two.").held("cut", after=1))
    run = await queued(bare, project_id, "Count!")
    runner = Runner(bare.database, bare.model, "9", bare_settings)
    running = asyncio.create_task(runner.run(run.id))
    await until(bare, sa.select(Message).where(col(Message.run_id) == run.id))
    await cut_connections(bare_settings)

    await asyncio.to_thread(scripted.release, "cut")
    await asyncio.wait_for(running, DEADLINE)

    ended = await found(bare, run.id)
    assert (ended.status, ended.attempt) == ("completed", 1)
    assert len(await asyncio.to_thread(scripted.requests)) == 1


class Hesitant(Database):
    """A database of which the next transaction is a failure, once `trouble` is set."""

    trouble: Exception | None = None

    @asynccontextmanager
    async def transaction(self, track: Track | None = None) -> AsyncIterator[Session]:
        if (trouble := self.trouble) is not None:
            self.trouble = None
            raise trouble
        async with super().transaction(track) as session:
            yield session


class StartingUp(Exception):
    """What Postgres says to those who come too early."""

    sqlstate = "57P03"


@pytest.mark.parametrize(
    "trouble",
    [
        TimeoutError(),  # a statement took too long: a failover, a disk that hangs
        ConnectionRefusedError(),
        sqlalchemy.exc.TimeoutError("no connection of the pool became free"),
        DBAPIError("SELECT", {}, StartingUp()),
    ],
    ids=lambda trouble: f"{type(trouble).__module__}.{type(trouble).__name__}",
)
async def test_a_run_that_finds_the_database_away_for_a_moment_waits_and_goes_on(
    bare: Resources, bare_settings: Settings, project_id: str, scripted: RemoteModelServer, trouble: Exception
) -> None:
    await asyncio.to_thread(scripted.script, Reply.text("One two.").held("away", after=1))
    run = await queued(bare, project_id, "Count!")
    database = Hesitant(bare.database.engine, bare.database.publisher)
    runner = Runner(database, bare.model, "9", bare_settings)
    running = asyncio.create_task(runner.run(run.id))
    await until(bare, sa.select(Message).where(col(Message.run_id) == run.id))
    database.trouble = trouble

    await asyncio.to_thread(scripted.release, "away")
    await asyncio.wait_for(running, DEADLINE)

    ended = await found(bare, run.id)
    assert (ended.status, ended.attempt) == ("completed", 1)
    assert len(await asyncio.to_thread(scripted.requests)) == 1


async def test_a_forced_tool_choice_survives_the_worker_that_was_lost_in_the_middle_of_the_call(
    bare: Resources, bare_settings: Settings, project_id: str, scripted: RemoteModelServer
) -> None:
    call = Reply.tool_calls(("look_up", {"name": "Ada"}))
    await asyncio.to_thread(scripted.script, call.held("lost", after=1), call)
    function = {"type": "function", "function": {"name": "look_up"}}
    run = await queued(bare, project_id, "Who?", tools=[function], tool_choice="required")
    runner = Runner(bare.database, bare.model, "9", bare_settings)
    running = asyncio.create_task(runner.run(run.id))
    await until(bare, sa.select(RunStep).where(col(RunStep.run_id) == run.id))
    running.cancel()
    await asyncio.wait([running])

    await asyncio.wait_for(runner.run(run.id), DEADLINE)

    asked = await asyncio.to_thread(scripted.requests)
    assert [request["body"].get("tool_choice") for request in asked] == ["required", "required"]
    assert (await found(bare, run.id)).status == "requires_action"


async def cut_connections(settings: Settings) -> None:
    """As a restart of Postgres does, or a proxy that tidies up."""
    url = settings.database_url.get_secret_value()
    connection = await asyncpg.connect(url)
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    await connection.execute(f"SELECT pg_terminate_backend(pid, 5000) {others} AND backend_type = 'client backend'")
    await connection.close()
