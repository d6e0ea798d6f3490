"""Plays a scenario in every order of its steps, or in some that a seed decides; and says which order broke a law.

Depth first, and each world is played from its beginning. Two orders that lead to the same state of everything (rows,
events told, messages on their way, places of all actors) have the same future: it is explored once.
"""

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from structlog.testing import capture_logs

from tests.life.world import Cast, Ground, World

SWALLOWED = ("run_not_ended", "run_failed")
"""What is logged of errors that nobody foresaw."""


@dataclass
class Explored:
    """What was seen."""

    worlds: int = 0
    states: set[str] = field(default_factory=set)
    whole: bool = True


class Broken(AssertionError):
    """A law was broken; says in which order of steps."""


async def every_order(ground: Ground, cast: Cast, *, seconds: float = 3600.0) -> Explored:
    """Play a scenario in every order, as far as the time allows. Raises Broken."""
    explored, deadline = Explored(), time.monotonic() + seconds
    prefixes: list[list[str]] = [[]]
    while prefixes:
        if time.monotonic() > deadline:
            explored.whole = False
            break
        prefixes += await _play(ground, cast, prefixes.pop(), explored)
    return explored


async def _play(ground: Ground, cast: Cast, prefix: list[str], explored: Explored) -> list[list[str]]:
    """Play one order: the prefix, then always the first that is possible. Returns the orders that branch off."""
    branches: list[list[str]] = []
    explored.worlds += 1
    async with playing(World(ground, cast)) as world:
        path: list[str] = []
        for what in prefix:
            await world.step(what)
            path.append(what)
        while (state := world.digest()) not in explored.states:
            explored.states.add(state)
            possible = world.possible()
            if not possible:
                await world.rest()
                break
            branches += [[*path, other] for other in possible[1:]]
            await world.step(possible[0])
            path.append(possible[0])
    return branches


async def some_order(ground: Ground, cast: Cast, seed: int) -> None:
    """Play a scenario in the order that a seed decides. Raises Broken."""
    chance = random.Random(seed)
    async with playing(World(ground, cast)) as world:
        while possible := world.possible():
            await world.step(chance.choice(possible))
        await world.rest()


@asynccontextmanager
async def playing(world: World) -> AsyncIterator[World]:
    """A world that has begun and will leave nothing behind. What breaks a law is told with the order that led to it."""
    with capture_logs() as logged:
        try:
            await world.begin()
            yield world
            swallowed = [line for line in logged if line["event"] in SWALLOWED]
            assert not swallowed, f"an error was logged and swallowed: {swallowed}"
        except Exception as error:
            order = "\n  ".join(world.trace)
            raise Broken(f"{world.cast!r}\n  {order}\n{error!r}") from error
        finally:
            await world.end()
