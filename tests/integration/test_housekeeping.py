"""Looking whether anything is to be done: one statement sees all that a sweep would find, and nearly always nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
import sqlalchemy as sa

from orchestrator import attempts, housekeeping
from orchestrator.bounds import Bounds
from orchestrator.db import Database, Session
from orchestrator.direct import Direct
from orchestrator.events.frames import Track
from orchestrator.foreign import Json
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.tables import Run, Worker, now
from tests.integration.house import House, assistant_id, narrow, quiet
from tests.integration.plain_scene import Counted
from tests.integration.play import DEADLINE
from tests.integration.test_claims import nodes

__all__ = ["assistant_id", "narrow", "quiet"]

SOON = sa.text("now()")
LATE = {"expires_at": now() - 60}

DUE: dict[str, dict[str, Any]] = {
    "woken": {"wake_at": SOON},
    "orphaned": {"status": "in_progress", "attempt": 1, "owner": "4711", "lease_until": SOON},
    "cancelled": {"status": "cancelling"},
    "expired": LATE,
    "placed": {"placed": False},
    "turns": {"waiting": True, "placed": False},
    "given_up": {"status": "in_progress", "attempt": 8, "losses": 8},
}
"""What a sweep counts, and what a run is like that has it counted."""


class Short(Counted):
    """The short way of another, which remembers what it was given."""

    terms: tuple[Json, ...] = ()

    async def fetch(self, statement: str, *arguments: Json) -> list[Json]:
        self.terms = arguments
        return await super().fetch(statement, *arguments)

    async def another(self) -> Json:
        """A connection like those of the short way."""
        return await self._direct._connect()


WAITS = "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND state = 'active' AND wait_event = 'ClientRead'"


class Home(Database):
    """A database that counts its transactions, and the statements of its short way."""

    def __init__(self, bare: Resources, direct: Direct) -> None:
        self.short = Short(direct)
        super().__init__(bare.database.engine, bare.database.publisher, self.short, bounds=Bounds(project=2))
        self.transactions = 0

    @asynccontextmanager
    async def transaction(self, track: Track | None = None) -> AsyncIterator[Session]:
        self.transactions += 1
        async with super().transaction(track) as session:
            yield session


@pytest_asyncio.fixture
async def home(bare: Resources) -> Home:
    """Without a worker, alive or dead."""
    assert bare.database.direct is not None
    async with bare.database.transaction() as session:
        await session.execute(sa.delete(Worker))
    return Home(bare, bare.database.direct)


async def test_where_nothing_is_due_one_statement_says_so(home: Home, narrow: House) -> None:
    for run in [await narrow.create() for _ in range(3)]:  # the third waits for a place
        await narrow.set_(run, losses=7)

    assert await housekeeping.look(home) == housekeeping.Swept()
    assert (len(home.short.statements), home.transactions) == (1, 0)


@pytest.mark.parametrize("what", DUE)
async def test_whatever_is_due_is_seen(home: Home, narrow: House, what: str) -> None:
    await narrow.set_(await narrow.create(), **DUE[what])

    assert asdict(await housekeeping.look(home))[what] == 1


async def test_a_worker_that_is_gone_is_seen_although_it_had_no_run(home: Home, bare: Resources) -> None:
    async with bare.database.transaction() as session:
        session.add(Worker(owner="4711", name="gone"))

    await housekeeping.look(home)

    assert home.transactions > 0
    async with bare.database.transaction() as session:
        assert (await session.execute(sa.select(Worker))).first() is None


async def test_a_session_that_is_silent_in_the_middle_of_a_statement_is_seen(
    home: Home, bare_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "SILENCE", 0.0)
    silent = await asyncpg.connect(bare_settings.database_url.get_secret_value())
    try:
        statement = await silent.prepare("SELECT 1")  # Postgres waits for what is to be done with it
        assert statement is not None
        async with asyncio.timeout(DEADLINE):
            while not await home.short.fetch(WAITS, silent.get_server_pid()):  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.01)

        await housekeeping.look(home)

        assert home.transactions > 0
    finally:
        silent.terminate()


@pytest.mark.parametrize("mode", ["custom", "generic"])
async def test_to_look_costs_a_walk_along_indexes_however_many_runs_are_over(
    home: Home, narrow: House, mode: str
) -> None:
    await housekeeping.look(home)
    await narrow.set_(await narrow.create(), status="completed", placed=False)
    connection = await home.short.another()
    try:
        await connection.execute(f"SET plan_cache_mode = force_{mode}_plan")
        await connection.execute(MANY)
        for learns in ("SELECT 1", "ANALYZE runs"):
            await connection.execute(learns)
            ((plan,),) = await connection.fetch(f"EXPLAIN (FORMAT JSON) {home.short.statements[0]}", *home.short.terms)
            kinds = {node["Node Type"] for node in nodes(plan[0]["Plan"]) if node.get("Relation Name") == "runs"}
            assert kinds <= {"Index Scan", "Index Only Scan"}, plan
    finally:
        await connection.close()


COLUMNS = ", ".join(f'"{column.name}"' for column in attempts.table(Run).c if column.name not in ("id", "position"))
MANY = f"INSERT INTO runs (id, {COLUMNS}) SELECT 'run_old' || n, {COLUMNS} FROM runs, generate_series(1, 3000) AS n"  # noqa: S608
