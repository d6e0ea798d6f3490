"""Two source trees beside each other, offered the same load in turns: what a change brought, on a machine never quiet.

    git worktree add /tmp/before <commit>
    python -m bench compare --against /tmp/before

Both stacks run all the time, each with its own Postgres and Redis; what one does while the other is measured is what it
does at rest. Each figure is the median of the turns.
"""

import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

from bench.background import failures
from bench.calls import Job
from bench.load import Felt, Generator, Load, together
from bench.report import Options, Row, Table, ms, progress, us
from bench.stack import GROUPS, KEY, Stack, running
from bench.throughput import warm_up

INSTANT, IDEAL = "bench-instant-40", "bench-ideal"


def compare(options: Options) -> Iterator[Table]:
    """Beside another source tree (--against), in turns: runs a second, CPU of a run, time to the first token."""
    if options.against is None:
        return
    turns = 2 if options.quick else 5
    with ExitStack() as ends:
        generator = ends.enter_context(Generator())
        trees = {"before": options.against, "now": options.tree}
        sides = {}
        for side, tree in trees.items():
            stack = ends.enter_context(running(replace(options, tree=tree)))
            sides[side] = (stack, stack.assistant(INSTANT))
            warm_up(stack, generator, sides[side][1])
        found: dict[str, list[Row]] = {side: [] for side in sides}
        for turn in range(turns):
            for side, (stack, assistant) in sides.items():
                progress(f"compare: turn {turn + 1} of {turns}, {side}")
                found[side].append(_turn(stack, generator, assistant))
    rows = [{"tree": side, **_median(rows)} for side, rows in found.items()]
    yield Table("compare", "Two trees in turns", rows, f"medians of {turns} turns; streamed runs; one worker, one API")


def _turn(stack: Stack, generator: Generator, assistant: str) -> Row:
    instant = Job(stack.base_url, "streamed", KEY, INSTANT, assistant)
    ideal = replace(instant, model=IDEAL)
    with stack.meter() as used:
        many = generator.offer(Load(instant, clients=50, seconds=2.0))[0]
    with stack.meter() as spent:
        burst = generator.offer(Load(ideal, "burst", 50, rounds=2, pause=0.1))[0]
    one = generator.offer(Load(ideal, seconds=2.5, pause=0.05))[0]
    direct = generator.offer(Load(Job(stack.model_url, "direct", model=IDEAL), seconds=1.0))[0]
    return {
        "runs/s": round(many.per_second, 1),
        **{f"{group} µs/run": us(_each(used, group, many)) for group in GROUPS if group != "model"},
        "paced µs/run": us(sum(_each(spent, group, burst) for group in GROUPS if group != "model")),
        "added first, 1 client ms": ms(one.first() - direct.first()),
        "added first, 50 at once ms": ms(burst.first() - direct.first()),
        **failures(together([many, burst, one, direct])),
    }


def _each(used: dict[str, float], group: str, felt: Felt) -> float:
    return used[group] / max(1, len(felt.totals))


def _median(rows: list[Row]) -> Row:
    """The median of every column of numbers: a value that was measured, not one between two."""
    medians: Row = {}
    for name in rows[0]:
        numbers = [value for row in rows if isinstance(value := row.get(name), int | float)]
        if numbers:
            medians[name] = statistics.median_low(numbers)
    return medians
