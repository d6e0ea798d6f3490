"""Connections that say little and often are left alone for a moment while many are under way."""

import asyncio

from orchestrator.http_gathering import MANY, TOGETHER, Gatherer

DEADLINE = 60.0


class Sleeper:
    """A connection that knows whether it was woken."""

    def __init__(self, woken: "asyncio.Queue[Sleeper]") -> None:
        self._woken = woken

    def wake(self) -> None:
        """Note it."""
        self._woken.put_nowait(self)


async def test_nobody_rests_while_few_are_under_way() -> None:
    woken: asyncio.Queue[Sleeper] = asyncio.Queue()

    assert not Gatherer(range(MANY - 1)).takes(Sleeper(woken))
    assert Gatherer(range(MANY)).takes(Sleeper(woken))


async def test_everybody_who_rests_is_woken_once_however_many_they_are() -> None:
    woken: asyncio.Queue[Sleeper] = asyncio.Queue()
    gatherer = Gatherer(range(10 * TOGETHER))
    for _ in range(2):  # and again: who was woken may rest anew
        sleepers = {Sleeper(woken) for _ in range(2 * TOGETHER + 3)}

        assert all(gatherer.takes(sleeper) for sleeper in sleepers)
        async with asyncio.timeout(DEADLINE):
            found = [await woken.get() for _ in sleepers]

        assert set(found) == sleepers
        assert woken.empty()
