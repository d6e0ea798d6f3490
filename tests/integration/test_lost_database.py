"""Transactions whose database goes away, at each of their moments: what they did is there once, and is told once."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import asyncpg
import pytest
import sqlalchemy as sa
from asyncpg.prepared_stmt import PreparedStatement
from pydantic import SecretStr
from sqlalchemy.exc import DBAPIError
from sqlmodel import col

from orchestrator import db, housekeeping, outcomes, presence, runs
from orchestrator.attempts import XID
from orchestrator.db import Database, Session
from orchestrator.errors import RunCancelled
from orchestrator.events import frames
from orchestrator.events.frames import START
from orchestrator.events.heard import Heard
from orchestrator.events.publisher import stream_key
from orchestrator.execution.runner import Runner
from orchestrator.patience import Once, patiently
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.tables import Message, Run, RunStep
from tests.fakes.model_control import RemoteModelServer
from tests.fakes.replies import Reply
from tests.integration.scene import all_sent
from tests.integration.test_runner import DEADLINE, found, queued, scripted

__all__ = ["scripted"]

Moment = Literal["before", "after"]
COMMITS = 7
"""Transactions of the run below, from its claim to its end."""


class Lossy(Database):
    """A database whose commits may be counted, and of which one may fail: before it is done, or before it is told."""

    def __init__(self, bare: Resources, fails: int, moment: Moment) -> None:
        super().__init__(db.engine(bare.settings), bare.database.publisher)
        self.commits = 0
        dialect: Any = self.engine.sync_engine.dialect
        commit: Callable[[Any], None] = dialect.do_commit

        def do_commit(connection: Any) -> None:
            self.commits += 1
            failing = self.commits == fails
            if failing and moment == "before":
                raise ConnectionResetError("lost before the commit")
            commit(connection)
            if failing:
                raise ConnectionResetError("the answer to the commit was lost")

        dialect.do_commit = do_commit


@asynccontextmanager
async def lossy(bare: Resources, fails: int = 0, moment: Moment = "before") -> AsyncIterator[Lossy]:
    """Such a database, closed at the end."""
    database = Lossy(bare, fails, moment)
    try:
        yield database
    finally:
        await database.engine.dispose()


async def told(bare: Resources, run_id: str) -> list[tuple[frames.Cursor, str]]:
    """Cursors and names of a run's events, in the order of its stream."""
    await all_sent(bare)
    entries: Any = await bare.redis.xrange(stream_key(run_id))
    single = [frame for _, fields in entries for frame in frames.split(fields[b"f"])]
    return [(cursor, frames.last_event(frame)) for cursor, frame in single]


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_whichever_commit_is_lost_a_run_is_carried_out_once_and_told_once(
    bare: Resources, bare_settings: Settings, project_id: str, scripted: RemoteModelServer, moment: Moment
) -> None:
    seen = set()
    for fails in range(1, COMMITS + 1):
        script = (Reply.text("Let me see.").calling(("no_such_tool", {})), Reply.text("One two."))
        await asyncio.to_thread(scripted.reset)
        await asyncio.to_thread(scripted.script, *script)
        run = await queued(bare, project_id, "Count!")
        async with lossy(bare, fails, moment) as database:
            await asyncio.wait_for(Runner(database, bare.model, "9", bare_settings).run(run.id), DEADLINE)
            assert database.commits >= COMMITS

        ended = await found(bare, run.id)
        assert (ended.status, ended.attempt) == ("completed", 1), fails
        assert len(await asyncio.to_thread(scripted.requests)) == 2, fails
        async with bare.database.transaction() as session:
            said = (await session.execute(sa.select(Message).where(col(Message.run_id) == run.id))).scalars().all()
            done = (await session.execute(sa.select(RunStep).where(col(RunStep.run_id) == run.id))).scalars().all()
        assert [message.status for message in said] == ["completed"] * 2, fails
        assert [step.status for step in done] == ["completed"] * 3, fails
        events = await told(bare, run.id)
        assert [cursor.seq for cursor, _ in events if cursor.attempt == 1] == list(
            range(1, sum(cursor.attempt == 1 for cursor, _ in events) + 1)
        ), fails
        seen.add(tuple(name for _, name in events if not name.endswith(".delta")))
    assert len(seen) == 1, seen


async def test_a_commit_that_postgres_is_still_at_is_waited_for(bare: Resources) -> None:
    tries = 0
    async with Session(bare.database.engine) as under_way, lossy(bare, fails=1) as database:
        xid = str((await under_way.execute(sa.select(XID))).scalar_one())

        async def work(session: Session) -> int:
            nonlocal tries
            await session.execute(sa.select(1))
            session.xid = xid
            tries += 1
            return tries

        once = Once(database)
        with pytest.raises(ConnectionResetError):
            await once.attempt(work)
        with pytest.raises(TimeoutError):
            await once.attempt(work)
        await under_way.rollback()

        assert await once.attempt(work) == 2


@asynccontextmanager
async def full_disk(bare: Resources) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """While the block runs, no message can be changed for want of space. Yields what waits until somebody has tried."""
    name = f"full_{secrets.token_hex(4)}"
    trigger = (
        f"CREATE SEQUENCE {name}_tries",
        f"""CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('{name}_tries');
        RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$""",
        f"CREATE TRIGGER {name} BEFORE UPDATE ON messages FOR EACH ROW EXECUTE FUNCTION {name}()",
    )

    is_called = sa.text(f"SELECT is_called FROM {name}_tries")  # noqa: S608  # a name of ours

    async def tried() -> None:
        async with asyncio.timeout(DEADLINE), bare.database.engine.connect() as connection:
            while not (await connection.execute(is_called)).scalar_one():
                await connection.commit()
                await asyncio.sleep(0.02)

    await _execute(bare, *trigger)
    try:
        yield tried
    finally:
        await _execute(bare, f"DROP FUNCTION {name} CASCADE", f"DROP SEQUENCE {name}_tries")


async def _execute(bare: Resources, *statements: str) -> None:
    async with bare.database.engine.begin() as connection:
        for statement in statements:
            await connection.execute(sa.text(statement))


async def test_a_finished_answer_waits_until_the_disk_has_room_again(
    bare: Resources, bare_settings: Settings, project_id: str, scripted: RemoteModelServer
) -> None:
    await asyncio.to_thread(scripted.script, Reply.text("One two."))
    run = await queued(bare, project_id, "Count!")

    async with full_disk(bare) as tried:
        running = asyncio.create_task(Runner(bare.database, bare.model, "9", bare_settings).run(run.id))
        await tried()
    await asyncio.wait_for(running, DEADLINE)

    ended = await found(bare, run.id)
    assert (ended.status, ended.attempt) == ("completed", 1)
    assert len(await asyncio.to_thread(scripted.requests)) == 1


async def test_a_cancel_is_felt_while_a_line_waits(
    bare: Resources, bare_settings: Settings, project_id: str, scripted: RemoteModelServer
) -> None:
    await asyncio.to_thread(scripted.script, Reply.text("One two."))
    run = await queued(bare, project_id, "Count!")
    runner = Runner(bare.database, bare.model, "9", bare_settings)

    async with full_disk(bare) as tried:
        running = asyncio.create_task(runner.run(run.id))
        await tried()
        async with bare.database.transaction() as session:
            await runs.cancel(session, project_id, run.thread_id, run.id)
        runner.interrupt(run.id, RunCancelled())
    await asyncio.wait_for(running, DEADLINE)

    assert (await found(bare, run.id)).status == "cancelled"


async def test_waiting_for_the_database_has_an_end(bare: Resources) -> None:
    async def away() -> None:
        raise ConnectionRefusedError

    with pytest.raises(ConnectionRefusedError):
        await patiently(bare.database, away, until=asyncio.get_running_loop().time() + 0.2)


async def test_a_session_that_falls_silent_loses_its_locks_and_is_told_so_in_passing(
    bare: Resources, bare_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "BUSY", 2.0)
    silent = db.engine(bare_settings.model_copy(update={"run_lease": 0.1}))
    housekeepers = sa.select(sa.func.pg_try_advisory_xact_lock(presence.LOCK_CLASS, 4712))

    async with silent.connect() as frozen:
        assert (await frozen.execute(housekeepers)).scalar_one()
        async with asyncio.timeout(DEADLINE):
            while True:
                async with bare.database.transaction() as session:
                    if (await session.execute(housekeepers)).scalar_one():
                        break
                await asyncio.sleep(0.05)
        with pytest.raises(DBAPIError) as told:
            await frozen.execute(housekeepers)
    await silent.dispose()

    assert db.passes(told.value)


async def test_a_silent_stream_outlasts_the_database_for_a_while(
    bare: Resources, bare_settings: Settings, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = SecretStr(f"postgresql://nobody:secret@127.0.0.1:{unused_tcp_port}/nothing")
    away = Database(db.engine(bare_settings.model_copy(update={"database_url": nowhere})), bare.database.publisher)
    outcome = outcomes.outcome_of(away)

    assert await outcome("run_1", Heard(START), False) is None
    monkeypatch.setattr(outcomes, "PATIENCE", 0.0)
    with pytest.raises(ConnectionRefusedError):
        await outcome("run_1", Heard(START), False)
    await away.engine.dispose()


async def test_a_process_that_freezes_in_the_middle_of_a_statement_holds_up_nobody(
    bare: Resources, bare_settings: Settings, project_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "BUSY", 0.2)
    run = await queued(bare, project_id, "Hi")
    gone = {"status": "in_progress", "owner": "4717", "lease_until": sa.func.now() - sa.text("interval '1 hour'")}
    async with bare.database.transaction() as session:
        await session.execute(sa.update(Run).where(col(Run.id) == run.id).values(gone))
    frozen = await asyncpg.connect(bare_settings.database_url.get_secret_value())
    await frozen.execute("BEGIN")
    await frozen.execute("SELECT pg_advisory_xact_lock($1::int, 0), id FROM runs FOR UPDATE", presence.LOCK_CLASS)
    await frozen.prepare("SELECT 1")  # says the driver, and waits for Postgres to describe it; nothing follows

    async with asyncio.timeout(DEADLINE):
        while (await found(bare, run.id)).owner == "4717":
            await housekeeping.sweep(bare.database, lease=0.2)
            await asyncio.sleep(0.05)

    frozen.terminate()


async def test_a_connection_whose_driver_has_lost_its_way_is_dropped_and_its_run_completes(
    bare: Resources,
    bare_settings: Settings,
    project_id: str,
    scripted: RemoteModelServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await asyncio.to_thread(scripted.script, Reply.text("One two.").held("begun"))
    run = await queued(bare, project_id, "Count!")
    database = Database(db.engine(bare_settings, connections=1), bare.database.publisher)
    lost: list[int] = []
    send = PreparedStatement.fetch

    async def lose_the_way(self: PreparedStatement, *parameters: object, **named: object) -> object:
        session = self._connection.get_server_pid()
        if lost and lost[0] in (0, session):
            lost[0] = session
            raise asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress")
        return await send(self, *parameters, **named)

    monkeypatch.setattr(PreparedStatement, "fetch", lose_the_way)
    running = asyncio.create_task(Runner(database, bare.model, "9", bare_settings).run(run.id))
    await asyncio.to_thread(scripted.wait_for, lambda state: state["gates"].get("begun", {}).get("waiting") == 1)
    lost.append(0)  # the next connection that is used, and it for ever
    await asyncio.to_thread(scripted.release, "begun")
    await asyncio.wait_for(running, DEADLINE)
    await database.engine.dispose()

    ended = await found(bare, run.id)
    assert lost != [0]
    assert (ended.status, ended.attempt, ended.last_error) == ("completed", 1, None)
