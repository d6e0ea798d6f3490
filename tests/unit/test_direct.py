"""The connections of the short way: few, lent in turn, made anew when they are lost, and never lent to two."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from orchestrator import db
from orchestrator.direct import Connections

DEADLINE = 60.0


class Connection:
    """One that can be lost, or cut."""

    def __init__(self) -> None:
        self.lost = False

    def is_closed(self) -> bool:
        return self.lost

    def terminate(self) -> None:
        self.lost = True


class Maker:
    """Makes connections, as long as `trouble` does not keep it from it, and once the `door` is open."""

    def __init__(self) -> None:
        self.made: list[Connection] = []
        self.trouble: Exception | None = None
        self.door = asyncio.Event()
        self.door.set()
        self.begun = asyncio.Event()

    async def __call__(self) -> Connection:
        self.begun.set()
        await self.door.wait()
        if self.trouble is not None:
            raise self.trouble
        self.made.append(Connection())
        return self.made[-1]


@pytest_asyncio.fixture
async def maker() -> Maker:
    return Maker()


@pytest_asyncio.fixture
async def pool(maker: Maker) -> AsyncIterator[Connections]:
    pool = Connections(maker, 2, DEADLINE)
    pool.open()
    yield pool
    pool.close()


async def test_one_that_came_back_is_lent_before_another_is_made(pool: Connections, maker: Maker) -> None:
    assert pool.free() is None
    first = await pool.wait()
    pool.give_back(first)

    assert pool.free() is first
    assert pool.free() is None
    assert await pool.wait() is not first
    assert len(maker.made) == 2


async def test_who_waits_is_served_in_turn_and_before_who_comes_later(pool: Connections, maker: Maker) -> None:
    lent = [await pool.wait(), await pool.wait()]
    waiting = [asyncio.create_task(pool.wait()) for _ in range(2)]
    await asyncio.sleep(0)

    for connection in lent:
        pool.give_back(connection)
        assert pool.free() is None

    assert await asyncio.gather(*waiting) == lent
    assert len(maker.made) == 2


async def test_nobody_waits_for_one_for_longer_than_was_said(maker: Maker) -> None:
    pool = Connections(maker, 1, 0.01)
    pool.open()
    only = await pool.wait()

    with pytest.raises(TimeoutError) as trouble:
        await pool.wait()
    pool.give_back(only)

    assert db.passes(trouble.value)
    assert pool.free() is only
    pool.close()


async def test_one_that_was_lost_makes_room_for_a_new_one(pool: Connections, maker: Maker) -> None:
    lent = [await pool.wait(), await pool.wait()]
    waiting = asyncio.create_task(pool.wait())
    await asyncio.sleep(0)
    lent[0].lost = True  # while it is lent
    pool.give_back(lent[0])
    new = await waiting
    pool.give_back(lent[1])
    lent[1].lost = True  # while it is not

    assert pool.free() is None
    assert await pool.wait() is maker.made[3]
    assert new is maker.made[2]


async def test_a_connection_that_cannot_be_made_costs_nobody_else_theirs(pool: Connections, maker: Maker) -> None:
    maker.trouble = ConnectionRefusedError()
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            await pool.wait()
    maker.trouble = None

    assert [await pool.wait() for _ in range(2)] == maker.made


async def test_who_leaves_takes_nothing_along(pool: Connections, maker: Maker) -> None:
    lent = await pool.wait()
    maker.door.clear()
    maker.begun.clear()
    making = asyncio.create_task(pool.wait())
    await maker.begun.wait()
    waiting, too_late = asyncio.create_task(pool.wait()), asyncio.create_task(pool.wait())
    await asyncio.sleep(0)
    waiting.cancel()  # before there is one
    await asyncio.sleep(0)
    pool.give_back(lent)
    too_late.cancel()  # there is one, and it does not know
    making.cancel()
    left = await asyncio.gather(making, waiting, too_late, return_exceptions=True)
    maker.door.set()

    assert [type(each) for each in left] == [asyncio.CancelledError] * 3
    assert pool.free() is lent
    assert await pool.wait() is maker.made[1]


async def test_one_that_nobody_has_needed_for_a_while_is_closed(pool: Connections) -> None:
    lent = [await pool.wait(), await pool.wait()]
    for connection in lent:
        pool.give_back(connection)
    pool._look()
    pool.give_back(pool.free())

    pool._look()

    assert [connection.lost for connection in lent] == [True, False]
    assert pool.free() is lent[1]


async def test_at_the_end_all_are_cut_and_whoever_waits_is_refused(pool: Connections, maker: Maker) -> None:
    lent = await pool.wait()
    maker.door.clear()
    making, waiting = asyncio.create_task(pool.wait()), asyncio.create_task(pool.wait())
    await asyncio.sleep(0)

    pool.close()
    maker.door.set()

    assert lent.lost
    assert (await making).lost
    with pytest.raises(asyncpg.InterfaceError):
        await waiting
    pool.give_back(lent)
    with pytest.raises(asyncpg.InterfaceError):
        await pool.wait()
