"""Jobs that the hub hands to the loop thread: all are started, in order, and those together that came together."""

from collections.abc import Callable
from typing import cast

import pytest

from workers.loop import LoopThread
from workers.starts import Starts, delivery


class Told:
    """Stands for the loop thread: what it was told to call, and calls when the test says so."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []
        self.closed = False

    def call(self, function: Callable[[], None]) -> bool:
        if not self.closed:
            self.calls.append(function)
        return not self.closed

    def turn(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


@pytest.fixture
def loop() -> Told:
    return Told()


@pytest.fixture
def started() -> list[str]:
    return []


@pytest.fixture
def starts(loop: Told, started: list[str]) -> Starts[str]:
    return Starts(cast("LoopThread", loop), started.append)


def test_a_job_that_comes_alone_is_told_of_at_once(starts: Starts[str], loop: Told, started: list[str]) -> None:
    assert starts.add("one")
    assert len(loop.calls) == 1

    loop.turn()

    assert started == ["one"]


def test_jobs_that_are_delivered_together_are_told_of_once_behind_the_last(
    starts: Starts[str], loop: Told, started: list[str]
) -> None:
    with delivery:
        assert all(starts.add(job) for job in ("one", "two", "three"))
        assert not loop.calls

    assert len(loop.calls) == 1
    loop.turn()
    assert started == ["one", "two", "three"]


def test_a_delivery_that_fails_has_started_what_came_before(
    starts: Starts[str], loop: Told, started: list[str]
) -> None:
    def fail() -> None:
        with delivery:
            starts.add("one")
            raise ValueError("not readable")

    with pytest.raises(ValueError, match="not readable"):
        fail()
    starts.add("two")
    loop.turn()

    assert started == ["one", "two"]


def test_a_job_that_comes_while_the_loop_looks_is_started_too(
    starts: Starts[str], loop: Told, started: list[str]
) -> None:
    starts.add("one")
    with delivery:
        starts.add("two")
        loop.turn()
        starts.add("three")

    loop.turn()

    assert started == ["one", "two", "three"]


def test_a_delivery_that_a_signal_interrupts_can_be_told_of_before_its_end(
    starts: Starts[str], loop: Told, started: list[str]
) -> None:
    with delivery:
        starts.add("one")
        starts.tell()
        loop.turn()
        assert started == ["one"]

    loop.turn()

    assert started == ["one"]


def test_a_loop_that_is_closed_takes_no_job(starts: Starts[str], loop: Told) -> None:
    loop.closed = True

    assert not starts.add("one")
