"""Rounds of which the host of a virtual machine took a part are measured again: their times would be the neighbours'.

Where the kernel does not tell of it, or there is no host, every round is good.
"""

from collections.abc import Callable
from typing import Final, TypeVar

import psutil

T = TypeVar("T")

TRIES: Final = 6
"""Rounds that are measured at most for one that counts; none was undisturbed then, and the least disturbed is taken."""
GRAIN: Final = 0.015
"""Seconds, of all cores, that may be missing: the kernel counts in hundredths."""


def undisturbed(measure: Callable[[], T], tries: int = TRIES) -> tuple[T, float]:
    """What was measured, and the seconds that the host took meanwhile, of all cores."""
    found = [_measured(measure)]
    while len(found) < tries and found[-1][1] > GRAIN:
        found.append(_measured(measure))
    return min(found, key=lambda one: one[1])


def _measured(measure: Callable[[], T]) -> tuple[T, float]:
    before = _stolen()
    return measure(), _stolen() - before


def _stolen() -> float:
    return float(getattr(psutil.cpu_times(), "steal", 0.0))
