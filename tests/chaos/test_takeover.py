"""A worker is lost with runs in flight: all are taken over, and the model is asked for no finished turn again.

How soon is measured by `python -m tests.chaos.takeover`; here only that it happens. (The worker that is replaced when
it was the only one is in test_worker_killed.py.)
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.chaos import cluster as clusters
from tests.chaos.cluster import Cluster
from tests.chaos.takeover import Case, measure

RUNS = 20


@pytest_asyncio.fixture(scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    """An installation without workers."""
    with clusters.place() as folder:
        async with clusters.running(folder) as ours:
            yield ours


@pytest.mark.parametrize("case", ["one of two", "frozen"])
async def test_all_runs_of_a_lost_worker_are_taken_over_and_no_finished_turn_is_asked_for_again(
    cluster: Cluster, case: Case
) -> None:
    figures = await measure(cluster, case, RUNS, lease=5.0)

    assert figures["taken over"] == RUNS
    asked = figures["asked"]
    assert (asked["first least"], asked["first most"]) == (1, 1)
    assert asked["least"] >= 2
