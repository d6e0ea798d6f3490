"""Runs that wait for their turn, against the real database: the order, who hands on, and what happens at once."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import pytest_asyncio
import sqlalchemy as sa
from sqlmodel import col

from orchestrator import assistants, closing, housekeeping, lifecycle, runs, threads, turns
from orchestrator.db import Session
from orchestrator.errors import InvalidRequest, LeaseLost, RunCancelled
from orchestrator.execution.runner import Runner
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.tables import ACTIVE, IS_ACTIVE, Run, Thread, now
from orchestrator.wire.requests import CreateAssistant, CreateRun
from tests.integration.scene import Scene

DEADLINE = 30.0


@pytest_asyncio.fixture(autouse=True)
async def quiet(bare: Resources) -> None:
    """No run of another test is left for housekeeping to find."""
    async with bare.database.transaction() as session:
        await session.execute(sa.delete(Thread))


@pytest_asyncio.fixture
async def scene(bare: Resources, project_id: str) -> Scene:
    """An empty thread."""
    async with bare.database.transaction() as session:
        assistant = await assistants.create(session, project_id, CreateAssistant(model="gpt-4o"))
        thread = await threads.create(session, project_id, None)
    return Scene(bare, project_id, thread.id, assistant.id)


async def test_a_waiting_run_gets_the_thread_and_its_messages_when_the_active_one_ends(scene: Scene) -> None:
    first, second, third = await scene.create(said="1"), await scene.create(said="2"), await scene.create(said="3")
    assert (await scene.active(), await scene.said()) == (first.id, ["1"])

    await scene.complete(await scene.claim(first))

    assert (await scene.active(), await scene.said()) == (second.id, ["1", "2"])
    await scene.cancel(second)
    assert (await scene.active(), await scene.said()) == (third.id, ["1", "2", "3"])


@pytest.mark.parametrize("ending", ["completed", "failed", "incomplete", "cancelled", "expired"])
async def test_whatever_the_ending_the_next_run_gets_its_turn(scene: Scene, ending: str) -> None:
    first, second = await scene.create(), await scene.create()
    claimed = await scene.claim(first)

    async with scene.bare.database.transaction() as session:
        await lifecycle.hold(session, claimed, ending=True)
        if ending == "cancelled":
            await closing.cancel(session, claimed)
        else:
            error = {"last_error": {"code": "server_error", "message": "x"}} if ending == "failed" else {}
            await closing.end(session, claimed, ending, attempt="same", **error)  # type: ignore[arg-type]

    assert await scene.active() == second.id


async def test_a_run_that_waits_is_not_carried_however_it_is_woken(scene: Scene, bare_settings: Settings) -> None:
    await scene.create()
    waiting = await scene.create()

    await Runner(scene.bare.database, scene.bare.model, "9", bare_settings).run(waiting.id)

    assert [run.status for run in await scene.all()] == ["queued", "queued"]


async def test_a_waiting_run_is_cancelled_without_handing_anything_on(scene: Scene) -> None:
    first, second, third = await scene.create(), await scene.create(said="never"), await scene.create()

    await scene.cancel(second)

    assert [run.status for run in await scene.all()] == ["queued", "cancelled", "queued"]
    assert await scene.active() == first.id
    await scene.complete(await scene.claim(first))
    assert (await scene.active(), await scene.said()) == (third.id, [])


async def test_a_waiting_run_expires_like_any_other_and_is_passed_over(scene: Scene) -> None:
    first, second, third = await scene.create(), await scene.create(said="late"), await scene.create()
    await scene.set_(second, expires_at=now() - 1)

    await scene.complete(await scene.claim(first))

    assert await scene.active() == third.id
    assert (await housekeeping.sweep(scene.bare.database)).expired == 1
    ended = (await scene.all())[1]
    assert (ended.status, ended.waiting, ended.additional_messages) == ("expired", False, None)
    assert await scene.said() == []


async def test_housekeeping_gives_an_ownerless_thread_to_whoever_waits_for_it(scene: Scene) -> None:
    first, second, third = await scene.create(), await scene.create(said="2"), await scene.create()
    await scene.set_(first, status="completed")  # as if its end had handed nothing on

    swept, again = await housekeeping.sweep(scene.bare.database), await housekeeping.sweep(scene.bare.database)

    assert (swept.turns, again.turns) == (1, 0)
    assert (await scene.active(), await scene.said()) == (second.id, ["2"])
    assert (await scene.all())[2].waiting
    assert third.id != second.id


async def test_a_full_queue_refuses_in_plain_words(scene: Scene) -> None:
    first = await scene.create()
    body = CreateRun(assistant_id=scene.assistant_id, on_active_run="enqueue")

    async def create() -> Run:
        async with scene.bare.database.transaction() as session:
            return await runs.create(session, scene.project_id, scene.thread_id, body, lifetime=600, room=2)

    await create()
    await create()
    with pytest.raises(InvalidRequest) as refused:
        await create()

    text = f"Thread {scene.thread_id} already has an active run {first.id}, and 2 runs that wait for their turn."
    assert refused.value.message == text


async def test_interrupt_cancels_what_is_active_and_what_waits_and_takes_the_thread(scene: Scene) -> None:
    await scene.create(said="1")
    await scene.create(said="2")

    new = await scene.create("interrupt", "3")

    assert [run.status for run in await scene.all()] == ["cancelled", "cancelled", "queued"]
    assert (await scene.active(), await scene.said()) == (new.id, ["1", "3"])


async def test_interrupt_lets_the_worker_end_its_run_and_write_down_what_it_has_heard(scene: Scene) -> None:
    first, _ = await scene.create(said="1"), await scene.create(said="2")
    claimed = await scene.claim(first)

    new = await scene.create("interrupt", "3")

    assert [run.status for run in await scene.all()] == ["cancelling", "cancelled", "queued"]
    assert (await scene.active(), await scene.said()) == (first.id, ["1"])
    async with scene.bare.database.transaction() as session:
        with pytest.raises(RunCancelled):
            await lifecycle.hold(session, claimed, ending=True)
        await closing.end(session, claimed, "cancelled", attempt="same")
    assert (await scene.active(), await scene.said()) == (new.id, ["1", "3"])


async def test_a_run_that_interrupts_gets_the_thread_of_a_worker_that_died(scene: Scene) -> None:
    first = await scene.create()
    await scene.claim(first)
    new = await scene.create("interrupt")

    await housekeeping.sweep(scene.bare.database)  # nobody holds the lock of that worker

    assert [run.status for run in await scene.all()] == ["cancelled", "queued"]
    assert await scene.active() == new.id


async def test_of_twenty_runs_that_interrupt_at_once_the_last_is_left(scene: Scene) -> None:
    await asyncio.wait_for(asyncio.gather(*(scene.create("interrupt") for _ in range(20))), DEADLINE)

    made = await scene.all()
    assert [run.status for run in made] == ["cancelled"] * 19 + ["queued"]
    assert await scene.active() == made[-1].id


async def test_twenty_runs_enqueued_at_once_all_land_and_run_in_the_order_of_creation(
    scene: Scene, bare_settings: Settings
) -> None:
    await asyncio.wait_for(asyncio.gather(*(scene.create(said=str(n)) for n in range(20))), DEADLINE)
    made = await scene.all()
    runner = Runner(scene.bare.database, scene.bare.model, "9", bare_settings)

    carried = []
    async with asyncio.timeout(DEADLINE):
        while (active := await scene.active()) is not None:
            carried.append(active)
            await runner.run(active)

    assert carried == [run.id for run in made]
    assert [run.status for run in await scene.all()] == ["completed"] * 20
    assert sorted(await scene.said(), key=int) == [str(n) for n in range(20)]


class Storm:
    """Everybody who may decide about a thread, again and again until `stop`, all at once."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.stop = asyncio.Event()
        self.most_active = 0

    async def again_and_again(self, act: Callable[[], Awaitable[None]], pause: float) -> None:
        """Do it until `stop`."""
        while not self.stop.is_set():
            await act()
            await asyncio.sleep(pause)

    async def create(self, policy: str) -> None:
        """A client that makes runs."""
        for _ in range(12):
            await self.scene.create(policy, "x")

    async def carry(self) -> None:
        """A worker that ends the active run."""
        active = await self.scene.active()
        async with self.scene.bare.database.transaction() as session:
            claimed = active and await lifecycle.claim(session, active, "1", 60)
        if claimed:
            with suppress(LeaseLost, RunCancelled):
                await self.scene.complete(claimed[0])

    async def cancel(self) -> None:
        """A client that cancels the oldest run that is not over."""
        unfinished = [run for run in await self.scene.all() if run.status in ACTIVE]
        if unfinished:
            with suppress(InvalidRequest):
                await self.scene.cancel(unfinished[0])
        else:
            self.stop.set()

    async def keep_house(self) -> None:
        """Somebody's housekeeping."""
        await housekeeping.sweep(self.scene.bare.database)

    async def count(self) -> None:
        """A witness."""
        async with self.scene.bare.database.transaction() as session:
            query = sa.select(sa.func.count()).select_from(Run).where(col(Run.thread_id) == self.scene.thread_id)
            active = (await session.execute(query.where(IS_ACTIVE))).scalar_one()
        self.most_active = max(self.most_active, active)


async def test_ends_creations_cancels_and_sweeps_at_once_neither_deadlock_nor_leave_a_run_behind(scene: Scene) -> None:
    storm = Storm(scene)

    async def clients() -> None:
        await asyncio.gather(storm.create("enqueue"), storm.create("enqueue"), storm.create("interrupt"))
        await storm.again_and_again(storm.cancel, 0.02)

    others = [(storm.carry, 0.0), (storm.carry, 0.0), (storm.keep_house, 0.0), (storm.count, 0.01)]
    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(clients(), *(storm.again_and_again(act, pause) for act, pause in others))

    made = await scene.all()
    assert len(made) == 36
    assert {run.status for run in made} <= {"completed", "cancelled"}
    assert storm.most_active == 1


async def test_a_thread_is_deleted_while_its_runs_end_and_wait(scene: Scene) -> None:
    first = await scene.create()
    await scene.create()
    claimed = await scene.claim(first)

    async def delete() -> None:
        async with scene.bare.database.transaction() as session:
            await threads.delete(session, scene.project_id, scene.thread_id)

    async def finish() -> None:
        with suppress(LeaseLost):
            await scene.complete(claimed)

    await asyncio.wait_for(asyncio.gather(finish(), delete()), DEADLINE)

    assert await scene.all() == []


async def test_a_turn_that_overtakes_the_creation_tells_the_same_first_events(scene: Scene) -> None:
    """The process that creates a run may be slower to tell it than the worker that hands it the thread."""
    first = await scene.create()
    second = await scene.create()
    claimed = await scene.claim(first)

    async with scene.bare.database.transaction() as session:
        await lifecycle.hold(session, claimed, ending=True)
        await closing.end(session, claimed, "completed", attempt="same")
        retold = [frame for frame in session.frames if frame.run_id == second.id]

    async with scene.bare.database.transaction() as session:
        told = Session(scene.bare.database.engine)
        turns.tell_created(told, second)
    assert [frame.data for frame in retold] == [frame.data for frame in told.frames]
    assert [str(frame.cursor) for frame in retold] == ["0-1", "0-2"]


@pytest.mark.parametrize("attempt", [0, 2])
async def test_a_wake_up_is_good_for_its_attempt_only(scene: Scene, attempt: int) -> None:
    run = await scene.create()
    await scene.set_(run, attempt=1)

    async with scene.bare.database.transaction() as session:
        assert await lifecycle.claim(session, run.id, "1", 60, attempt) is None
        assert await lifecycle.claim(session, run.id, "1", 60, 1) is not None
