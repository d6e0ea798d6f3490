"""What function calls add: ten rounds of one, and one round of twenty at once, answered by the client at once.

Beside it, the same conversation with the model called directly, turn by turn. Statements are what Postgres counted
while the runs went, less what it counts in as much time of idleness.
"""

import time
from collections.abc import Iterator

from bench.background import failures
from bench.calls import Job
from bench.load import Felt, Generator, Load, together
from bench.report import Options, Row, Table, ms, progress
from bench.stack import KEY, Stack, running
from bench.throughput import cpu_per_run, warm_up

CASES = {
    "no call": ("bench-instant-40", 0, 1),
    "10 rounds": ("bench-tools-10-1", 10, 1),
    "20 parallel calls": ("bench-tools-1-20", 1, 20),
}
IDLE = 4.0
COUNTED = "select sum(calls)::bigint, (select sum(xact_commit)::bigint from pg_stat_database) from pg_stat_statements"


def tool_rounds(options: Options) -> Iterator[Table]:
    """Function calls: time that rounds and parallel calls add, CPU and statements."""
    with running(options, statements=True) as stack, Generator() as generator:
        assistant = stack.assistant("bench-instant-40", tools=True)
        warm_up(stack, generator, assistant)
        idle = _idle(stack)
        rows = [_case(stack, generator, assistant, told, idle, options) for told in CASES]
    note = "one client; instant model; statements, with those that begin and end transactions, as Postgres counts them"
    yield Table("tool_rounds", "Function calls", rows, note)


def _case(stack: Stack, generator: Generator, assistant: str, told: str, idle: list[float], options: Options) -> Row:
    model, rounds, parallel = CASES[told]
    direct = Job(stack.model_url, "direct_tools", model=model, rounds=rounds, parallel=parallel)
    ours = Job(stack.base_url, "streamed_tools", KEY, model, assistant, rounds=rounds, parallel=parallel)
    felt: dict[str, list[Felt]] = {"direct": [], "ours": []}
    statements, began, spent = _counted(stack), 0.0, 0.0
    with stack.meter() as used:
        for _ in range(1 if options.quick else 3):
            progress(f"tool rounds: {told}")
            felt["direct"] += generator.offer(Load(direct, seconds=1.0))
            began = time.monotonic()
            felt["ours"] += generator.offer(Load(ours, seconds=3.0))
            spent += time.monotonic() - began
    after = _counted(stack)
    model_alone, through = together(felt["direct"]), together(felt["ours"])
    runs = max(1, len(through.totals))
    counts = [(now - then - rate * spent) / runs for now, then, rate in zip(after, statements, idle, strict=True)]
    return {
        "run": told,
        "direct p50 ms": ms(model_alone.total()),
        "added p50 ms": ms(through.total() - model_alone.total()),
        "added per round ms": ms((through.total() - model_alone.total()) / (rounds + 1)),
        "statements/run": round(counts[0], 1),
        "transactions/run": round(counts[1], 1),
        **cpu_per_run(used, through),
        "runs": len(through.totals),
        **failures(through, model_alone),
    }


def _counted(stack: Stack) -> list[float]:
    return [float(str(value)) for value in stack.fetch(COUNTED)[0]]


def _idle(stack: Stack) -> list[float]:
    """Statements and transactions a second while nothing runs: housekeeping's."""
    time.sleep(1.0)
    before = _counted(stack)
    time.sleep(IDLE)
    return [(after - then) / IDLE for after, then in zip(_counted(stack), before, strict=True)]
