"""How often the collector looks for cycles: not as often as runs begin that hold nothing but what they need."""

import gc
from collections.abc import Iterator

import pytest

from orchestrator import garbage


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_what_all_runs_of_a_worker_hold_does_not_make_the_collector_look() -> None:
    garbage.settle(2_000)

    assert gc.get_threshold()[0] >= 2_000 * garbage.OF_A_RUN


@pytest.mark.parametrize("at_once", [0, 1])
def test_a_process_that_carries_little_looks_rarely_too(at_once: int) -> None:
    garbage.settle(at_once)

    assert gc.get_threshold() == garbage.THRESHOLDS
