"""Places that many want at once, against the real database: no bound is exceeded, nobody is left, nothing locks up."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress

import pytest
import sqlalchemy as sa
from sqlmodel import col

from orchestrator import lifecycle
from orchestrator.bounds import Bounds
from orchestrator.errors import InvalidRequest, LeaseLost, RunCancelled
from orchestrator.execution.runner import Runner
from orchestrator.model import Delta, Model, Prompt
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.tables import ACTIVE, Run
from tests.integration.house import House, assistant_id, belongings, ids, narrow, quiet
from tests.stack import Stack

__all__ = ["assistant_id", "narrow", "quiet"]

DEADLINE = 120.0
OTHERS = ("beta", "gamma")


class Counting:
    """A model that counts how many answers are under way at once, as its callers see it."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.models, self.retrieve = model.models, model.retrieve
        self.now = self.most = 0

    async def stream(self, prompt: Prompt) -> AsyncGenerator[list[Delta], None]:
        """As the model's."""
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            async with aclosing(self._model.stream(prompt)) as batches:
                async for deltas in batches:
                    yield deltas
        finally:
            self.now -= 1


async def test_twenty_runs_created_at_once_are_asked_of_the_model_two_at_a_time_and_in_their_order(
    narrow: House, stack: Stack, bare_settings: Settings
) -> None:
    model = stack.model
    await asyncio.to_thread(model.reset)
    first = [await narrow.create("[[hold=all]]") for _ in range(2)]
    counting = Counting(narrow.bare.model)
    runner = Runner(narrow.database, counting, "9", bare_settings)
    carried: list[asyncio.Task[None]] = []

    async def carry() -> None:
        while len(carried) < 20:
            carried.append(asyncio.create_task(runner.run(await narrow.database.woken.get())))
        await asyncio.gather(*carried)

    carrying = asyncio.create_task(carry())
    await asyncio.gather(*(narrow.create("[[tokens=5 delay=0.01]]") for _ in range(18)))
    in_line = await narrow.without()
    await asyncio.to_thread(model.release, "all")
    await asyncio.wait_for(carrying, DEADLINE)

    assert set((await narrow.statuses()).values()) == {"completed"}
    line = [*ids(first), *in_line]
    assert sorted(narrow.order) == sorted(line)
    # Of two that end at once, each passes over the run that the other is waking: that one may be noted any time later.
    assert all(line.index(run_id) <= turn + 1 for turn, run_id in enumerate(narrow.order))
    assert len(await asyncio.to_thread(model.requests)) == 20
    assert (counting.most, counting.now) == (2, 0)


class Storm:
    """Everybody who gives and takes places, all at once, until all runs are over."""

    def __init__(self, houses: Sequence[House], seed: int) -> None:
        self.houses = houses
        self.house = houses[0]
        self.random = random.Random(seed)
        self.made: list[str] = []
        self.created = asyncio.Event()
        self.over = asyncio.Event()

    async def create(self, house: House) -> None:
        """A client that makes runs, on threads of their own and on one that takes turns."""
        scene = await house.scene()
        for _ in range(8):
            run = await (house.create() if self.random.random() < 0.7 else scene.create())
            self.made.append(run.id)

    async def carry(self, owner: str) -> None:
        """A worker that carries out what it is woken for, one way or the other."""
        while not self.over.is_set():
            try:
                run_id = self.house.database.woken.get_nowait()
            except asyncio.QueueEmpty:
                await asyncio.sleep(0.005)
                continue
            async with self.house.database.transaction() as session:
                claimed = await lifecycle.claim(session, run_id, owner, 60)
            if claimed is not None:
                with suppress(LeaseLost, RunCancelled):
                    await self.house.end(claimed[0], self.random.choice(("completed", "failed", "incomplete")))

    async def cancel(self) -> None:
        """A client that cancels runs wherever they stand."""
        while not self.created.is_set():
            if self.made:
                run_id = self.random.choice(self.made)
                async with self.house.database.transaction() as session:
                    run = (await session.execute(sa.select(Run).where(col(Run.id) == run_id))).scalar_one()
                owner = next(house for house in self.houses if house.project_id == run.project_id)
                with suppress(InvalidRequest):
                    await owner.cancel(run)
            await asyncio.sleep(0.03)

    async def watch(self) -> int:
        """A witness: the most runs that one project, and all together, held at once."""
        most = 0
        while not self.over.is_set():
            owners = Counter(await belongings(self.house))
            bounds = self.house.database.bounds
            assert all(held <= bounds.project for held in owners.values())
            assert owners.total() <= (bounds.upstream or sum(owners.values()))
            most = max(most, owners.total())
            if self.created.is_set() and not set((await self.house.statuses()).values()) & set(ACTIVE):
                self.over.set()
            await asyncio.sleep(0)
        return most

    async def keep_house(self) -> None:
        """Somebody's housekeeping, for what was cancelled while a worker had it."""
        while not self.over.is_set():
            await self.house.sweep()
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("bounds", [Bounds(project=2), Bounds(project=3, upstream=4)], ids=["project", "shared"])
async def test_in_a_storm_no_bound_is_exceeded_nobody_is_left_and_nothing_locks_up(
    bare: Resources, project_id: str, assistant_id: str, bounds: Bounds
) -> None:
    house = House(bare, project_id, assistant_id, bounds)
    houses = [house, *[await house.other(name) for name in OTHERS]]
    storm = Storm(houses, seed=4)

    async def clients() -> None:
        async with asyncio.TaskGroup() as group:
            for each in houses * 3:
                group.create_task(storm.create(each))
        storm.created.set()

    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as everybody:
        watching = everybody.create_task(storm.watch())
        workers = [storm.carry(str(number)) for number in range(1, 4)]
        for doing in (clients(), storm.cancel(), storm.keep_house(), *workers):
            everybody.create_task(doing)

    assert len(await house.statuses()) == 72
    assert watching.result() >= 2
    assert await house.without() == []
