"""The life of a run in every order of its steps: clients, two workers, housekeeping and time, over the real database.

Small casts are played in every order each time, large ones in a few that seeds decide. ASSISTANTD_STORM=long plays all
of them in every order, and then in thousands that nobody has seen: it takes hours.
"""

import os
import random
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import product
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from orchestrator import closing, db, housekeeping, lifecycle
from orchestrator.db import Session
from orchestrator.migrate import migrate
from orchestrator.settings import Settings
from tests.life.explorer import Broken, every_order, playing, some_order
from tests.life.pairs import STATES, VERBS, Brake, Pairs
from tests.life.world import Cast, Ground, World
from tests.stack import Stack

LONG = os.environ.get("ASSISTANTD_STORM") == "long"
LONGEST = 1800.0
"""Seconds that a cast is played in the long form."""
SEEDS = range(2000) if LONG else range(1)

PAIRS = 4
"""Pairs that are tried in each state, out of all."""

SMALL = [
    Cast(),
    Cast(client=("cancel",)),
    Cast(faults=("lost",), sweeps=1, workers=2),
    Cast(turns=("call",), client=("submit", "cancel")),
    Cast(direct=True),
    Cast(turns=("call",), client=("submit", "cancel"), direct=True),
    Cast(client=("cancel",), direct=True),
    Cast(turns=("fly",), client=("cancel",), direct=True),
    Cast(faults=("lost",), sweeps=1, workers=2, direct=True),
]
LARGE = [
    Cast(faults=("expiry", "timer"), sweeps=1),
    Cast(client=("interrupt",)),
    Cast(turns=("fly",), client=("cancel",), faults=("shutdown",)),
    Cast(turns=("fly",), faults=("lost",), sweeps=1, workers=2),
    Cast(faults=("lease",), sweeps=1, workers=2),
    Cast(faults=("killed", "again"), sweeps=1, workers=2),
    Cast(client=("cancel",), faults=("lost",), sweeps=1, workers=2),
    Cast(client=("cancel",), faults=("expiry", "timer"), sweeps=1),
    Cast(client=("cancel",), faults=("shutdown",), sweeps=1),
    Cast(faults=("shutdown", "again"), workers=2),
    Cast(turns=("call",), client=("submit",), faults=("expiry",), sweeps=1),
    Cast(turns=("both",), client=("submit",), faults=("lost",), sweeps=1, workers=2),
    Cast(client=("enqueue",), faults=("lost",), sweeps=1),
    Cast(client=("enqueue", "interrupt")),
    Cast(client=("enqueue", "cancel", "cancel latest"), faults=("expiry",), sweeps=1),
    Cast(client=("interrupt", "message"), faults=("lost",), sweeps=1, workers=2),
    Cast(client=("delete",), faults=("lost",), sweeps=1, workers=2),
    Cast(client=("enqueue", "delete")),
    Cast(client=("cancel", "reject"), faults=("due", "again"), sweeps=1),
    Cast(faults=("due", "again"), sweeps=1, workers=2),
    Cast(
        turns=("both", "fly", "call"),
        client=("submit", "enqueue", "interrupt", "submit", "cancel"),
        faults=("lost", "due", "again", "lease", "expiry", "timer"),
        workers=2,
        sweeps=3,
    ),
]


@pytest_asyncio.fixture(scope="module")
async def ground(stack: Stack) -> AsyncIterator[Ground]:
    """A database in which nothing else happens."""
    url = stack.environment["DATABASE_URL"]
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE DATABASE life")
    await connection.close()
    settings = Settings.model_validate({"DATABASE_URL": f"{url.rpartition('/')[0]}/life", "REDIS_URL": "redis://none"})
    await migrate(settings)
    engine = db.engine(settings)
    async with db.direct(settings).opened() as direct:
        ground = await Ground.made(engine, settings, direct)
        yield ground
        await ground.close()
    await engine.dispose()


@pytest.mark.timeout(0 if LONG else 120)
@pytest.mark.parametrize("cast", [*SMALL, *LARGE] if LONG else SMALL, ids=str)
async def test_every_order_of_steps_is_lawful_and_comes_to_rest(ground: Ground, cast: Cast) -> None:
    explored = await every_order(ground, cast, seconds=LONGEST)

    assert explored.whole or LONG


@pytest.mark.timeout(0 if LONG else 120)
@pytest.mark.parametrize("cast", LARGE, ids=str)
async def test_any_order_of_steps_is_lawful_and_comes_to_rest(ground: Ground, cast: Cast) -> None:
    deadline = time.monotonic() + LONGEST / 10
    for seed in SEEDS:  # on the long way and on the short one
        await some_order(ground, replace(cast, direct=seed % 2 == 1), seed)
        if time.monotonic() > deadline:
            assert LONG
            break


@pytest_asyncio.fixture(scope="module")
async def pairs(ground: Ground) -> AsyncIterator[Pairs]:
    """Two who meet, one of whom can be stopped in the middle."""
    engine = db.engine(ground.settings)
    yield Pairs(ground, Brake(engine))
    await engine.dispose()


@pytest.mark.timeout(0 if LONG else 120)
@pytest.mark.parametrize("state", STATES)
async def test_two_who_meet_come_one_after_the_other(pairs: Pairs, state: str) -> None:
    met = list(product(VERBS, VERBS))
    for first, second in met if LONG else random.Random(state).sample(met, PAIRS):
        after = 1
        while await pairs.play(state, first, second, after):
            after += 1 if LONG else 2


async def test_a_claim_that_is_under_way_when_its_worker_stops_is_told_before_others_go_on(ground: Ground) -> None:
    cast = Cast(faults=("shutdown", "again"), workers=2, direct=True)
    steps = "W1 takes 0, again, shutdown, W2 takes 0, W1 goes on, W2 goes on, W2 goes on, W1 goes on, W2 takes 0"
    async with playing(World(ground, cast)) as world:
        for step in steps.split(", "):
            await world.step(step)
        await world.rest()


async def nothing(*_: Any, **__: Any) -> None:
    """A rule that is not there."""


async def first_come(session: Session, run: Any, *, ending: bool = False) -> None:
    """`hold` without the fence."""


BROKEN_RULES = {
    "the fence of attempts": (lifecycle, "hold", first_come, Cast(faults=("lost",), sweeps=1, workers=2)),
    "the closing of what was torn": (closing, "close_torn", nothing, Cast(faults=("lost",), sweeps=1, workers=2)),
    "the closing of what is open at the end": (closing, "_close_steps", nothing, Cast(client=("cancel",))),
    "housekeeping": (housekeeping, "sweep", nothing, Cast(faults=("killed",))),
}


@pytest.mark.parametrize("rule", BROKEN_RULES)
async def test_a_rule_that_is_missing_is_missed(ground: Ground, monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    module, name, instead, cast = BROKEN_RULES[rule]
    monkeypatch.setattr(module, name, instead)

    with pytest.raises(Broken):
        await every_order(ground, cast)
