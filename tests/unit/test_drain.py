"""The time that a worker has left once it is asked to stop."""

import asyncio
from collections.abc import Callable

import pytest

from workers import drain
from workers.drain import GRACE, Drain, Manners


class Clock:
    """A clock that is set."""

    now = 1000.0

    def monotonic(self) -> float:
        """The time it is set to."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """In place of the machine's."""
    clock = Clock()
    monkeypatch.setattr(drain, "time", clock)
    return clock


def at_once(function: Callable[..., object], *args: object) -> bool:
    """Called without going to another thread."""
    function(*args)
    return True


async def test_tasks_are_told_at_once_and_cancelled_some_seconds_after_their_time(clock: Clock) -> None:
    told: list[bool] = []
    leaving = Drain(Manners(told.append, within=30), at_once)
    assert not leaving.overdue()

    leaving.asked()

    assert told == [False]
    clock.now += 30
    assert not leaving.overdue()
    clock.now += GRACE
    assert leaving.overdue()


async def test_who_is_asked_again_hurries_but_no_further_asking_gives_or_takes_time(clock: Clock) -> None:
    told: list[bool] = []
    leaving = Drain(Manners(told.append, within=30), at_once)

    for _ in range(4):
        leaving.asked()

    assert told == [False, True]
    assert not leaving.overdue()
    clock.now += GRACE
    assert leaving.overdue()


async def test_time_that_is_over_is_told_without_being_asked_again() -> None:
    told: list[bool] = []
    over = asyncio.Event()

    def tell(now: bool) -> None:
        told.append(now)
        if now:
            over.set()

    Drain(Manners(tell, within=0.01), at_once).asked()

    await asyncio.wait_for(over.wait(), 60)
    assert told == [False, True]


def test_tasks_without_manners_are_waited_for_until_it_is_asked_again(clock: Clock) -> None:
    leaving = Drain(None, at_once)

    leaving.asked()

    clock.now += 1e9
    assert not leaving.overdue()
    leaving.asked()
    assert leaving.overdue()
