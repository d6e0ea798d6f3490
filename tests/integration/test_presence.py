"""Workers that lose their locks, or their runs, without having died."""

import asyncio

import asyncpg
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlmodel import col

from orchestrator import housekeeping, presence, resources
from orchestrator.errors import RunStopped
from orchestrator.execution.runner import Runner
from orchestrator.presence import LOCK_CLASS, Presence
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.tables import Run
from tests.fakes.model_control import RemoteModelServer
from tests.fakes.proxy import Proxy
from tests.fakes.replies import Reply
from tests.integration.test_runner import DEADLINE, found, queued, scripted

__all__ = ["scripted"]

HOLDER = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = $1 AND objid = $2"


async def holder(connection: asyncpg.Connection, owner: str) -> int | None:
    pid: int | None = await connection.fetchval(HOLDER, LOCK_CLASS, int(owner))
    return pid


async def test_a_lock_that_is_lost_is_taken_again_at_once_and_its_holder_judges_nobody_meanwhile(
    bare: Resources, bare_settings: Settings, project_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = presence.new_owner()
    runner = Runner(bare.database, bare.model, owner, bare_settings)  # its lease is long: no heartbeat comes of itself
    orphan = await queued(bare, project_id, "Hi")
    async with bare.database.transaction() as session:
        gone = {"status": "in_progress", "owner": "4714", "lease_until": sa.func.now() - sa.text("interval '1 hour'")}
        await session.execute(sa.update(Run).where(col(Run.id) == orphan.id).values(gone))
    connection = await asyncpg.connect(bare_settings.database_url.get_secret_value())

    async with presence.present(owner, runner, bare.database, bare_settings) as shown:
        async with bare.database.transaction() as session:
            assert await shown.may_judge(session)  # whoever has just been started replaces one that died
        before = await holder(connection, owner)
        monkeypatch.setattr(presence, "SETTLING", 3600.0)
        await connection.execute("SELECT pg_terminate_backend($1, 5000)", before)
        async with asyncio.timeout(DEADLINE):
            while True:
                if await holder(connection, owner) not in (None, before):
                    break
                await asyncio.sleep(0.02)

        await housekeeping.sweep(bare.database, may_judge=shown.may_judge)
        assert (await found(bare, orphan.id)).owner == "4714"
        monkeypatch.setattr(presence, "SETTLING", 0.0)
        await housekeeping.sweep(bare.database, may_judge=shown.may_judge)
        assert (await found(bare, orphan.id)).owner is None
    await connection.close()


async def test_a_worker_that_is_started_before_its_database_waits_for_it(bare_settings: Settings) -> None:
    with Proxy.before(bare_settings.database_url.get_secret_value()) as proxy:
        proxy.set_mode("cut")
        settings = bare_settings.model_copy(update={"database_url": SecretStr(proxy.url)})
        async with resources.opened(settings) as opened:
            runner = Runner(opened.database, opened.model, "4717", settings)

            async def begin() -> bool:
                async with presence.present("4717", runner, opened.database, settings):
                    return True

            beginning = asyncio.create_task(begin())
            async with asyncio.timeout(DEADLINE):
                while True:
                    if proxy.accepted > 1:  # it was cut off, and has come again
                        break
                    await asyncio.sleep(0.02)
            proxy.set_mode("pass")
            assert await asyncio.wait_for(beginning, DEADLINE)


async def test_whoever_does_not_hold_its_own_lock_judges_nobody(bare: Resources, bare_settings: Settings) -> None:
    shown = Presence("4715", bare_settings)

    async with bare.database.transaction() as session:
        assert not await shown.may_judge(session)


async def test_a_run_that_was_taken_over_is_left_at_the_next_heartbeat_however_silent_the_model_is(
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
            taken = {"owner": "4716", "attempt": Run.attempt + 1}
            await session.execute(sa.update(Run).where(col(Run.id) == run.id).values(taken))
        await asyncio.wait_for(running, DEADLINE)

    left = await found(bare, run.id)
    assert (left.status, left.owner) == ("in_progress", "4716")


async def test_a_heartbeat_outlasts_a_driver_that_has_lost_its_way(
    bare: Resources, bare_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = bare_settings.model_copy(update={"run_lease": 0.3})
    owner = presence.new_owner()
    runner = Runner(bare.database, bare.model, owner, settings)
    connection = await asyncpg.connect(bare_settings.database_url.get_secret_value())
    lost: list[str] = []
    execute = asyncpg.Connection.execute

    async def lose_the_way(self: asyncpg.Connection, query: str, *rest: object, **named: object) -> object:
        if query == "SELECT 1" and not lost:
            lost.append(query)
            raise asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress")
        return await execute(self, query, *rest, **named)

    async with presence.present(owner, runner, bare.database, settings):
        before = await holder(connection, owner)
        monkeypatch.setattr(asyncpg.Connection, "execute", lose_the_way)
        async with asyncio.timeout(DEADLINE):
            while True:
                if await holder(connection, owner) not in (None, before):
                    break
                await asyncio.sleep(0.02)
    await connection.close()

    assert lost


class Carrying:
    """Who carries one run."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id

    def carried(self) -> dict[str, int]:
        return {self.run_id: 0}

    def interrupt(self, run_id: str, why: RunStopped, attempt: int | None = None) -> None:
        raise why


async def test_leases_are_renewed_while_a_former_session_still_holds_the_lock(
    bare: Resources, bare_settings: Settings, project_id: str
) -> None:
    run = await queued(bare, project_id, "Hi")
    owner = presence.new_owner()
    async with bare.database.transaction() as session:
        mine = {"status": "in_progress", "owner": owner, "lease_until": sa.func.now()}
        await session.execute(sa.update(Run).where(col(Run.id) == run.id).values(mine))
    former = await asyncpg.connect(bare_settings.database_url.get_secret_value())
    witness = await asyncpg.connect(bare_settings.database_url.get_secret_value())

    async with presence.present(owner, Carrying(run.id), bare.database, bare_settings) as shown:
        before = (await found(bare, run.id)).lease_until
        shown.drop()  # without a word to the listener, as when a network is dead
        await former.execute("SELECT pg_advisory_lock($1, $2)", LOCK_CLASS, int(owner))
        shown._ended.set()
        async with asyncio.timeout(DEADLINE):
            while True:
                if (await found(bare, run.id)).lease_until != before:
                    break
                await asyncio.sleep(0.02)
        assert await holder(witness, owner) == former.get_server_pid()
        await former.close()
        async with asyncio.timeout(DEADLINE):
            while True:
                if await holder(witness, owner) is not None:
                    break
                await asyncio.sleep(0.02)
    await witness.close()
