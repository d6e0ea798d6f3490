"""What is asked at the same time is carried out together, and everybody gets an answer of their own."""

import asyncio

import pytest
import structlog

from orchestrator import db
from orchestrator.batching import Batch, GivingWay, TooManyWaiting


class Carrier:
    """Doubles numbers, batch by batch; `doors` hold up the batches until they are opened."""

    def __init__(self, *, closed: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.begun = asyncio.Event()
        self.door = asyncio.Event()
        if not closed:
            self.door.set()

    async def __call__(self, numbers: list[int]) -> list[int]:
        self.batches.append(numbers)
        self.begun.set()
        await self.door.wait()
        if 13 in numbers:
            raise ValueError("unlucky")
        return [2 * number for number in numbers]


async def test_calls_of_one_moment_travel_together_and_each_gets_its_answer() -> None:
    carrier = Carrier()
    batch = Batch(carrier)

    answers = await asyncio.gather(*(batch(number) for number in range(10)))

    assert answers == [2 * number for number in range(10)]
    assert carrier.batches == [list(range(10))]


async def test_what_comes_while_all_lanes_are_busy_makes_up_the_next_batch() -> None:
    carrier = Carrier(closed=True)
    batch = Batch(carrier, lanes=1)
    first = asyncio.create_task(batch(1))
    await carrier.begun.wait()
    others = [asyncio.create_task(batch(number)) for number in (2, 3)]
    await asyncio.sleep(0)
    carrier.door.set()

    assert await asyncio.gather(first, *others) == [2, 4, 6]
    assert carrier.batches == [[1], [2, 3]]


async def test_no_batch_is_larger_than_allowed() -> None:
    carrier = Carrier()
    batch = Batch(carrier, most=4, lanes=1)

    await asyncio.gather(*(batch(number) for number in range(10)))

    assert [len(numbers) for numbers in carrier.batches] == [4, 4, 2]


async def test_a_failure_reaches_all_callers_of_its_batch_and_no_others() -> None:
    carrier = Carrier()
    batch = Batch(carrier, most=2, lanes=1)

    answers = await asyncio.gather(*(batch(number) for number in (1, 13, 2)), return_exceptions=True)

    assert [type(answer) for answer in answers] == [ValueError, ValueError, int]


async def test_a_caller_who_leaves_before_its_batch_is_not_carried_along() -> None:
    carrier = Carrier(closed=True)
    batch = Batch(carrier, lanes=1)
    first = asyncio.create_task(batch(1))
    await carrier.begun.wait()
    leaving, staying = asyncio.create_task(batch(2)), asyncio.create_task(batch(3))
    await asyncio.sleep(0)
    leaving.cancel()
    carrier.door.set()

    assert await asyncio.gather(*[first, staying]) == [2, 6]
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert carrier.batches == [[1], [3]]


async def test_calls_one_after_the_other_are_all_answered() -> None:
    batch = Batch(Carrier(), lanes=2)

    async def several(start: int) -> list[int]:
        return [await batch(start + step) for step in range(50)]

    answers = await asyncio.gather(*(several(100 * each) for each in range(1, 4)))

    assert answers == [[2 * (100 * each + step) for step in range(50)] for each in range(1, 4)]


async def test_more_calls_than_may_wait_are_refused_and_may_come_again() -> None:
    carrier = Carrier(closed=True)
    batch = Batch(carrier, lanes=1, bound=2)
    first = asyncio.create_task(batch(1))
    await carrier.begun.wait()
    waiting = [asyncio.create_task(batch(number)) for number in (2, 3)]
    await asyncio.sleep(0)

    with pytest.raises(TooManyWaiting) as refused:
        await batch(4)
    carrier.door.set()

    assert await asyncio.gather(first, *waiting) == [2, 4, 6]
    assert await batch(4) == 8
    assert carrier.batches == [[1], [2, 3], [4]]
    assert db.passes(refused.value)


async def test_a_batch_knows_nothing_of_the_run_of_its_first_caller() -> None:
    async def bound(numbers: list[int]) -> list[dict[str, object]]:
        return [structlog.contextvars.get_contextvars() for _ in numbers]

    batch = Batch(bound)
    with structlog.contextvars.bound_contextvars(run_id="run_1"):
        assert await batch(1) == {}
        assert structlog.contextvars.get_contextvars() == {"run_id": "run_1"}


async def test_way_is_given_to_batches_until_none_is_under_way() -> None:
    first, second = Carrier(closed=True), Carrier(closed=True)
    batches = Batch(first), Batch(second)
    give_way = GivingWay(*batches, seconds=3600)
    asked = [asyncio.create_task(batch(1)) for batch in batches]
    await asyncio.gather(first.begun.wait(), second.begun.wait())
    waiting = [asyncio.create_task(give_way()) for _ in range(3)]

    first.door.set()
    await asked[0]
    still = [task.done() for task in waiting]
    waiting.pop().cancel()
    second.door.set()
    async with asyncio.timeout(60):
        await asyncio.gather(*waiting)

    assert still == [False, False, False]
    assert await asked[1] == 2


async def test_way_is_given_only_for_a_while() -> None:
    carrier = Carrier(closed=True)
    batch = Batch(carrier)
    give_way = GivingWay(batch, seconds=0.01)
    asked = asyncio.create_task(batch(1))
    await carrier.begun.wait()

    async with asyncio.timeout(60):
        await asyncio.gather(give_way(), give_way())
        await give_way()  # anew
    carrier.door.set()

    assert await asked == 2


async def test_nobody_waits_if_there_is_nobody_to_give_way_to() -> None:
    give_way = GivingWay(batch := Batch(Carrier()), seconds=3600)

    assert await batch(1) == 2
    async with asyncio.timeout(60):
        await give_way()
