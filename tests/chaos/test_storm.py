"""A small storm, always the same; a large one by ASSISTANTD_STORM=long, another by ASSISTANTD_STORM_SEED=…"""

import os

import pytest

from tests.chaos import report
from tests.chaos.cluster import place
from tests.chaos.plan import drawn
from tests.chaos.storm import LEASE, weathered

LONG = os.environ.get("ASSISTANTD_STORM") == "long"
RUNS, SECONDS, PACE = (1000, 250.0, 5.0) if LONG else (50, 14.0, 5.0)
SEED = int(os.environ.get("ASSISTANTD_STORM_SEED", "4"))


@pytest.mark.timeout(1800 if LONG else 300)
async def test_every_run_ends_as_planned_whatever_a_storm_does_to_the_processes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = drawn(SEED, runs=RUNS, seconds=SECONDS, pace=PACE, lease=LEASE)

    with place() as folder:
        after = await weathered(plan, folder)

    with capsys.disabled():
        print(f"\n{report.table(after.figures)}")  # noqa: T201  # the report is what a storm is for
    assert after.wrong == [], f"ASSISTANTD_STORM_SEED={SEED}"


def test_the_same_seed_gives_the_same_storm_and_another_seed_another() -> None:
    def plan(seed: int) -> object:
        return drawn(seed, runs=50, seconds=30, pace=5, lease=LEASE)

    assert plan(1) == plan(1)
    assert plan(1) != plan(2)
