"""Wake-ups for an attempt that this process has claimed already: Postgres goes away as one of them is looked at, it is
asked again, and must not take what was claimed for the first one for its own.
"""

import asyncio

import pytest

from orchestrator import closing
from orchestrator.execution import claims
from orchestrator.execution.claims import Claims
from orchestrator.execution.journal import Journal
from orchestrator.foreign import Json
from orchestrator.resources import Resources
from orchestrator.tables import Run
from tests.integration.test_claims import DEADLINE, Moment, Worker, is_taken, set_, worker
from tests.integration.test_past import run_after, said

__all__ = ["worker"]

MOMENTS: tuple[Moment, ...] = ("before", "after")


async def another(worker: Worker, run: Run, moment: Moment) -> Journal | None:
    """What becomes of a second wake-up whose first statement is not answered."""
    worker.direct.troubles = [(moment, ConnectionResetError())]
    async with asyncio.timeout(DEADLINE):
        return await worker.claims.take(run.id, run.attempt)


async def left_behind(bare: Resources, project_id: str) -> Run:
    """A run in the middle that nobody is at."""
    run = await run_after(bare, project_id, said("Hi"))
    await set_(bare, run, status="in_progress", owner=None, attempt=1)
    run.attempt = 1
    return run


async def until_taken(bare: Resources, run: Run) -> None:
    async with asyncio.timeout(DEADLINE):
        while not await is_taken(bare, run):  # noqa: ASYNC110  # rows tell nobody
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("left", [False, True])
async def test_a_run_that_is_carried_is_not_carried_twice(
    bare: Resources, project_id: str, worker: Worker, left: bool, moment: Moment
) -> None:
    run = await left_behind(bare, project_id) if left else await run_after(bare, project_id, said("Hi"))
    taking = asyncio.create_task(worker.claims.take(run.id, run.attempt))
    await until_taken(bare, run)

    assert await another(worker, run, moment) is None

    async with asyncio.timeout(DEADLINE):
        assert await taking is not None
    assert await is_taken(bare, run)
    assert len(worker.told.names(run.id)) == (not left)


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_run_whose_journal_is_gone_before_the_run_was_left_is_not_begun_anew(
    bare: Resources, project_id: str, worker: Worker, moment: Moment
) -> None:
    run = await run_after(bare, project_id, said("Hi"))
    assert await worker.claims.take(run.id, run.attempt) is not None  # and is not kept: it could not be given back

    assert await another(worker, run, moment) is None
    assert worker.told.names(run.id) == [("1-1", "thread.run.in_progress")]


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_run_that_was_taken_over_but_could_not_be_read_is_not_begun_as_if_it_were_new(
    bare: Resources, project_id: str, worker: Worker, monkeypatch: pytest.MonkeyPatch, moment: Moment
) -> None:
    async def fails(*_: Json) -> None:
        raise ConnectionResetError

    run = await left_behind(bare, project_id)
    with monkeypatch.context() as away:  # for as long as it is waited for
        away.setattr(claims, "CLAIMING", 0.0)
        away.setattr(closing, "close_torn", fails)
        with pytest.raises(ConnectionResetError):
            await worker.claims.take(run.id, run.attempt)
    assert await is_taken(bare, run)

    assert await another(worker, run, moment) is None  # the lease will run out, and what was left open be closed
    assert worker.told.names(run.id) == []


async def test_a_run_that_cannot_be_read_is_told_to_have_begun_once(
    bare: Resources, project_id: str, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending, go_on = asyncio.Event(), asyncio.Event()
    end = Claims.end_unread

    async def end_unread(*arguments: Json) -> None:
        ending.set()
        await go_on.wait()
        await end(*arguments)

    monkeypatch.setattr(Claims, "end_unread", end_unread)
    run = await run_after(bare, project_id, said("Hi"))
    assert bare.database.direct is not None
    await bare.database.direct.fetch("UPDATE messages SET content = '7' WHERE thread_id = $1", run.thread_id)
    taking = asyncio.create_task(worker.claims.take(run.id, run.attempt))
    async with asyncio.timeout(DEADLINE):
        await ending.wait()

    assert await another(worker, run, "before") is None

    go_on.set()
    async with asyncio.timeout(DEADLINE):
        assert await taking is None
    assert worker.told.names(run.id) == [("1-1", "thread.run.in_progress"), ("1-2", "thread.run.failed")]


async def test_claims_that_nobody_left_are_held_in_mind_within_bounds(
    bare: Resources, project_id: str, worker: Worker
) -> None:
    worker.claims._most = 2
    runs = [await run_after(bare, project_id, said("Hi")) for _ in range(4)]

    journals = [(await worker.take(run))[0] for run in runs]

    assert all(journals)
    assert [*worker.claims._held] == [run.id for run in runs[2:]]
    for run in runs:
        worker.claims.left(run.id, 1)
    assert not worker.claims._held
