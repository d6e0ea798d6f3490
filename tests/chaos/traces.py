"""Who had which run, and when: read from the logs of all lives of all workers, the lost ones too."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

from tests.chaos.slots import Life, Loss, Slot

RESTS = frozenset({"run_completed", "run_ended", "run_requires_action", "run_released", "run_left"})
"""What a worker logs when it is done with a run."""


@dataclass(frozen=True)
class Claim:
    """A life had a run, from `at` on; `until` is None if it never said that it was done with it."""

    run_id: str
    attempt: int
    at: float
    until: float | None
    life: Life

    def held_at(self, moment: float) -> bool:
        """Whether the life had the run then."""
        return self.at <= moment and (self.until is None or self.until >= moment)


@dataclass(frozen=True)
class Takeover:
    """A run that was lost with its worker, how and when, and who claimed it next (None: it came to rest without)."""

    run_id: str
    loss: Loss
    at: float
    next: Claim | None

    @property
    def seconds(self) -> float | None:
        """From the loss to the next claim."""
        return None if self.next is None else self.next.at - self.at


class Silence(NamedTuple):
    """A run was taken from a worker that had not renewed its lease: one that was frozen, cut off, or too busy."""

    run_id: str
    at: float


def claims(slots: Iterable[Slot]) -> list[Claim]:
    """All claims by all workers, in their order."""
    found = [claim for slot in slots for life in slot.lives for claim in _claims(life)]
    return sorted(found, key=lambda claim: (claim.at, claim.attempt))


def takeovers(found: Iterable[Claim]) -> list[Takeover]:
    """What was in flight in workers that were killed or frozen, and what became of it.

    A worker that was frozen and goes on in time has lost nothing.
    """
    by_run: dict[str, list[Claim]] = defaultdict(list)
    for claim in found:
        by_run[claim.run_id].append(claim)
    return [
        Takeover(claim.run_id, how, at, following)
        for run in by_run.values()
        for claim in run
        for at, how in claim.life.losses
        if how != "term" and claim.held_at(at)
        for following in [_next(run, claim)]
        if following is not None or how == "kill"
    ]


def attendance(slots: Iterable[Slot]) -> list[tuple[float, float]]:
    """From when to when each life was there to work: from its first word, or a thaw, until something was done to it."""
    found: list[tuple[float, float]] = []
    for life in (life for slot in slots for life in slot.lives):
        ready = [line["at"] for line in life.lines() if line["event"] == "worker_ready"][:1]
        begins = (*ready, *life.thaws)
        found += [(begin, min((at for at, _ in life.losses if at >= begin), default=inf)) for begin in begins]
    return found


def attended(start: float, end: float, there: Iterable[tuple[float, float]]) -> float:
    """Seconds between two moments in which anybody at all was there."""
    seconds, reached = 0.0, start
    for begin, leave in sorted(there):
        begin, leave = max(begin, reached), min(leave, end)
        if leave > begin:
            seconds, reached = seconds + leave - begin, leave
    return seconds


def silences(slots: Iterable[Slot]) -> list[Silence]:
    """The runs that were taken from workers that live, because their leases had run out."""
    return [
        Silence(line["run_id"], line["at"])
        for slot in slots
        for life in slot.lives
        for line in life.lines()
        if line["event"] == "run_taken_away" and line.get("reason") == "lease ran out"
    ]


def percentile(values: Iterable[float], share: float) -> float | None:
    """The smallest value that so large a share of all does not exceed; None of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None


def _next(run: Iterable[Claim], lost: Claim) -> Claim | None:
    return min((claim for claim in run if claim.attempt > lost.attempt), key=lambda claim: claim.attempt, default=None)


def _claims(life: Life) -> Iterator[Claim]:
    begun: dict[tuple[str, int], float] = {}
    for line in life.lines():
        which = _which(line)
        if line["event"] == "run_claimed":
            begun[which] = line["at"]
        elif line["event"] in RESTS and which in begun:
            yield Claim(*which, begun.pop(which), line["at"], life)
    for which, at in begun.items():
        yield Claim(*which, at, None, life)


def _which(line: Mapping[str, Any]) -> tuple[str, int]:
    return str(line.get("run_id")), int(line.get("attempt") or 0)
