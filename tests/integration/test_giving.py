"""Places that runs free together by the plain statements: they are given away behind them, and never lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from orchestrator import places, runs
from orchestrator.bounds import Bounds
from orchestrator.db import Session
from orchestrator.events.frames import Track
from orchestrator.execution.runner import Runner
from orchestrator.giving import Giving
from orchestrator.plain_lines import PlainLines
from orchestrator.plain_statements import COMPLETIONS, RESTS
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.tables import Run
from orchestrator.wire.requests import CreateThreadAndRun
from tests.integration.house import House, Noting, assistant_id, ids, quiet
from tests.integration.plain_scene import AtWork, Counted

__all__ = ["assistant_id", "quiet"]

DEADLINE = 60.0
EACH_BOUND = pytest.mark.parametrize("bounds", [Bounds(project=3), Bounds(upstream=3)], ids=["of a project", "of all"])


class Ending(Counted):
    """The short way to the database, which notes how many runs its completions have ended."""

    completed = 0

    async def fetch(self, statement: str, *arguments: object) -> list[object]:
        rows = await super().fetch(statement, *arguments)
        self.completed += len(rows) if statement == COMPLETIONS else 0
        return rows


@EACH_BOUND
async def test_where_places_are_scarce_runs_end_by_plain_statements_and_those_that_wait_get_their_turn_in_order(
    bare: Resources, bare_settings: Settings, project_id: str, assistant_id: str, bounds: Bounds
) -> None:
    assert bare.database.direct is not None
    house = House(bare, project_id, assistant_id, bounds)
    house.database.direct = short = Ending(bare.database.direct)
    runner = Runner(house.database, bare.model, "9", bare_settings)
    made = [await house.create() for _ in range(12)]
    assert await house.without() == ids(made[3:])

    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as carrying:
        for _ in made:
            woken = await house.database.woken.get()
            assert len(await house.with_place()) <= 3
            carrying.create_task(runner.run(woken, 0))
    await runner.close()

    assert set((await house.statuses()).values()) == {"completed"}
    assert house.order == ids(made)
    assert short.completed == 12


@EACH_BOUND
async def test_runs_that_begin_to_wait_for_outputs_by_a_plain_statement_give_their_places_to_others(
    bare: Resources, bare_settings: Settings, project_id: str, assistant_id: str, bounds: Bounds
) -> None:
    assert bare.database.direct is not None
    house = House(bare, project_id, assistant_id, bounds)
    house.database.direct = short = Ending(bare.database.direct)
    runner = Runner(house.database, bare.model, "9", bare_settings)
    asking, others = await _that_ask(house, 3), [await house.create() for _ in range(4)]
    for _ in asking:
        house.database.woken.get_nowait()

    await asyncio.wait_for(asyncio.gather(*(runner.run(run.id, run.attempt) for run in asking)), DEADLINE)
    await runner.close()

    assert list((await house.statuses()).values()) == ["requires_action"] * 3 + ["queued"] * 4
    assert short.statements.count(RESTS) > 0
    assert (await house.with_place(), await house.without()) == (ids(others[:3]), ids(others[3:]))
    assert house.order == ids([*asking, *others[:3]])


async def _that_ask(house: House, many: int) -> list[Run]:
    """Runs that call a function of their client's."""
    function = {"type": "function", "function": {"name": "f"}}
    thread = {"messages": [{"role": "user", "content": "[[tool=f:{}]]"}]}
    body = CreateThreadAndRun.model_validate(
        {"assistant_id": house.assistant_id, "thread": thread, "tools": [function]}
    )
    made = []
    for _ in range(many):
        async with house.database.transaction() as session:
            made.append(await runs.create_with_thread(session, house.project_id, body, lifetime=600))
    return made


@EACH_BOUND
async def test_places_that_a_process_has_freed_before_it_died_are_given_away_by_housekeeping(
    bare: Resources, project_id: str, assistant_id: str, bounds: Bounds
) -> None:
    at_work = AtWork(bare, project_id)
    lines = await at_work.saying(3)
    house = House(bare, project_id, assistant_id, bounds)
    waiting = [await house.create() for _ in range(4)]
    dying = PlainLines(at_work.direct, bounds, at_work.freed.append)

    assert None not in await asyncio.gather(*map(dying.completion, lines))

    assert await house.without() == ids(waiting)
    assert (await house.sweep()).placed == 3
    assert house.order == ids(waiting[:3])


async def _one_waits(bare: Resources, project_id: str, assistant_id: str) -> tuple[House, list[Run]]:
    house = House(bare, project_id, assistant_id, Bounds(project=1))
    made = [await house.create() for _ in range(2)]
    await house.set_(made[0], status="completed")
    return house, made


async def test_a_creator_who_has_not_committed_when_a_place_comes_free_is_waited_for(
    bare: Resources, project_id: str, assistant_id: str
) -> None:
    """It has found no place; whoever looks before its commit does not see that it waits for one."""
    house = House(bare, project_id, assistant_id, Bounds(project=1))
    (first,) = [await house.create()]
    giving, going_on, given = Giving(house.database), asyncio.Event(), asyncio.Event()

    class Slow(Noting):
        @asynccontextmanager
        async def transaction(self, track: Track | None = None) -> AsyncIterator[Session]:
            async with super().transaction(track) as session:
                yield session
                given.set()
                await going_on.wait()

    slow = House(bare, project_id, assistant_id, house.database.bounds)
    slow.database = Slow(bare, house.database.bounds)
    creating = asyncio.create_task(slow.create())
    await asyncio.wait_for(given.wait(), DEADLINE)
    await house.set_(first, status="completed")
    giving.freed(project_id)
    await _until_somebody_stands_in_line(house)
    going_on.set()
    second = await asyncio.wait_for(creating, DEADLINE)

    assert await asyncio.wait_for(house.database.woken.get(), DEADLINE) == first.id
    assert await asyncio.wait_for(house.database.woken.get(), DEADLINE) == second.id
    await giving.close()


async def _until_somebody_stands_in_line(house: House) -> None:
    query = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = :class AND NOT granted")
    async with asyncio.timeout(DEADLINE), house.database.engine.connect() as connection:
        while not (await connection.execute(query, {"class": places.LOCK_CLASS})).scalar_one():
            await connection.rollback()
            await asyncio.sleep(0.01)


async def test_however_often_places_come_free_at_once_they_are_given_away_in_one_go(
    bare: Resources, project_id: str, assistant_id: str
) -> None:
    house, made = await _one_waits(bare, project_id, assistant_id)
    giving, begun = Giving(house.database), 0
    transaction = house.database.transaction

    @asynccontextmanager
    async def counted(track: Track | None = None) -> AsyncIterator[Session]:
        nonlocal begun
        begun += 1
        async with transaction(track) as session:
            yield session

    house.database.transaction = counted  # type: ignore[method-assign]
    for _ in range(50):
        giving.freed(project_id)
    await giving.close()

    assert house.order == ids(made)
    assert begun == 1


async def test_what_cannot_be_given_away_is_left_to_housekeeping(
    bare: Resources, project_id: str, assistant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    house, made = await _one_waits(bare, project_id, assistant_id)
    giving = Giving(house.database)

    async def refuse(_session: Session, _project_id: str) -> int:
        raise ValueError("not now")

    with capture_logs() as logs, monkeypatch.context() as troubled:
        troubled.setattr(places, "seek", refuse)
        giving.freed(project_id)
        await giving.close()
    giving.freed(project_id)  # it is too late

    assert [line["event"] for line in logs] == ["places_not_given"]
    assert (await house.sweep()).placed == 1
    assert house.order == ids(made)
