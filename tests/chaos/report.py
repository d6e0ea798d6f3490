"""The report of a storm: what was done to the installation, what became of the runs, how soon each was taken over."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from tests.chaos.facts import Facts
from tests.chaos.invariants import RESTING, asked_again, duplicates, outcomes
from tests.chaos.plan import Plan
from tests.chaos.traces import attended, percentile, takeovers

FIGURES = dict[str, Any]


def figures(plan: Plan, facts: Facts, wall: float, wrong: list[str]) -> FIGURES:
    """All of it, for JSON."""
    taken = takeovers(facts.claims)
    killed = [each.seconds for each in taken if each.seconds is not None and each.loss == "kill"]
    frozen = [each.seconds for each in taken if each.seconds is not None and each.loss == "freeze"]
    ends = Counter(end for history in facts.histories for end in history.ends)
    return {
        "seed": plan.seed,
        "runs": len(facts.runs),
        "outcomes": dict(outcomes(facts).most_common()),
        "blows": dict(Counter(blow.what for blow in facts.blows).most_common()),
        "claims": len(facts.claims),
        "takeovers": len(killed) + len(frozen),
        "duplicates": len(duplicates(facts)),
        "stuck": sum(run["status"] not in RESTING for run in facts.runs),
        "lost": sum(not facts.of_word(run.word) for run in plan.runs),
        "recovery after a kill": _spread(killed),
        "of that with any worker there": _spread(
            attended(each.at, each.at + each.seconds, facts.attendance)
            for each in taken
            if each.seconds is not None and each.loss == "kill"
        ),
        "recovery after a freeze": _spread(frozen),
        "leases run out": len(facts.silences),
        "model calls": len(facts.calls),
        "answers lost with their worker": len(asked_again(facts)),
        "streams": dict(ends.most_common()),
        "events heard": sum(len(history.events) for history in facts.histories),
        "wall seconds": round(wall, 1),
        "violations": wrong,
    }


def table(found: FIGURES) -> str:
    """The same, for people."""
    rows = [(name, value) for name, value in found.items() if name != "violations"]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {_shown(value)}" for name, value in rows]
    wrong = found["violations"]
    lines += [f"{'violations':<{width}}  {len(wrong)}", *(f"  {sentence}" for sentence in wrong)]
    return "\n".join(lines)


def _spread(given: Iterable[float]) -> dict[str, float | None]:
    seconds = list(given)
    worst = {"p50": percentile(seconds, 0.5), "p99": percentile(seconds, 0.99), "max": percentile(seconds, 1.0)}
    return {name: None if value is None else round(value, 2) for name, value in worst.items()}


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return " · ".join(f"{name} {count}" for name, count in value.items())
    return str(value)
