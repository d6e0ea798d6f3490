"""A worker process whose event loop hangs ends; one that was merely stopped as a whole does not."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from workers import watchdog
from workers.watchdog import EXIT_CODE, LOOKS

ROOT = Path(__file__).parents[2]
HANGING = """
import asyncio, threading
from workers.watchdog import watched

async def main():
    async with watched(0.4):
        threading.Event().wait()

asyncio.run(main())
"""


class Looks:
    """Stands for the end of the watch and for the loop: at each look, something happens. The watch is over with the
    last one.
    """

    def __init__(self, *happenings: Callable[["Looks"], None]) -> None:
        self.calls: list[Callable[[], None]] = []
        self._happenings: Iterator[Callable[[Looks], None]] = iter(happenings)

    def wait(self, _seconds: float) -> bool:
        happening = next(self._happenings, None)
        if happening is None:
            return True
        happening(self)
        return False

    def call_soon_threadsafe(self, function: Callable[[], None]) -> None:
        self.calls.append(function)


def hangs(_: Looks) -> None: ...


def ticks(looks: Looks) -> None:
    """The loop comes to what it was given."""
    while looks.calls:
        looks.calls.pop()()


@pytest.mark.parametrize(
    ("happenings", "ends"),
    [
        ([hangs] * (LOOKS + 1), True),
        ([hangs] * LOOKS, False),
        ([hangs] * LOOKS + [ticks] + [hangs] * (LOOKS - 1), False),  # each may have been hours
        ([ticks] * (3 * LOOKS), False),
    ],
    ids=["hangs", "hangs for a while", "comes back", "never hangs"],
)
def test_only_a_loop_that_misses_all_looks_in_a_row_ends_its_process(
    monkeypatch: pytest.MonkeyPatch, happenings: list[Callable[[Looks], None]], ends: bool
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(watchdog, "_end", lambda thread, _: ended.append(thread))
    looks: Any = Looks(*happenings)

    watchdog._watch(looks, 7, looks, 1.0)

    assert ended == ([7] if ends else [])


def test_a_process_whose_loop_hangs_ends_and_says_where() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGING], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == EXIT_CODE
    assert "event_loop_hangs" in done.stdout
    assert "in wait" in done.stdout
