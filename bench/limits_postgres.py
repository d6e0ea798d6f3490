"""What Postgres can take: the writes of plain runs and nothing else, alone and together, with each commit waited for or
not.

The three statements are those of `limits_direct`; no model, no Redis. "alone" is one run after another, each statement
for itself, as `pgbench` with one client would do it; "together" is many runs at once, whose statements travel together.
"""

import asyncio
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import orjson

from bench import limits_ground, limits_rows
from bench.limits_ground import Ground
from bench.limits_statements import Statements
from bench.report import Options, Row, Table, progress, us

MODEL = "bench-instant-40"
WAYS = {"alone": 1, "together": 200}
USED = '{"prompt_tokens": 20, "completion_tokens": 40, "total_tokens": 60}'


async def _write(statements: Statements, run_id: str, content: str) -> None:
    """All writes of one run."""
    row = await statements.claim(run_id)
    message, step, at = f"msg_{run_id[4:]}", f"step_{run_id[4:]}", int(time.time())
    await statements.open(run_id, row["attempt"], message, step, at)
    await statements.finish(run_id, row["attempt"], message, step, content, USED, at)


async def _turn(ground: Ground, runs: int, at_once: int, *, waits: bool) -> Row:
    connection = await limits_rows.connect(ground.twin)
    await connection.execute(f"ALTER DATABASE limit_ SET synchronous_commit = {'on' if waits else 'off'}")
    seeded = await limits_rows.seed(connection, runs, MODEL)
    part = {"type": "text", "text": {"value": seeded.answer, "annotations": []}}
    content = orjson.dumps([part]).decode()
    statements = await Statements.opened(ground.twin, "postgres")
    left = list(reversed(seeded.ids))

    async def one_after_another() -> None:
        while left:
            await _write(statements, left.pop(), content)

    with ground.stack.meter() as used:
        began, cpu = time.monotonic(), time.process_time()
        await asyncio.gather(*(one_after_another() for _ in range(at_once)))
        wall, ours = time.monotonic() - began, time.process_time() - cpu
    if wrong := await limits_rows.wrong(connection, seeded):
        raise RuntimeError(f"{wrong} runs were not written as they should be.")
    trips = sum(batch.trips for batch in (statements.claim, statements.open, statements.finish))
    await statements.close()
    await connection.close()
    found = {"runs/s": round(runs / wall), "round trips a run": round(trips / runs, 3)}
    return {**found, "Postgres CPU, µs": us(used["postgres"] / runs), "our CPU, µs": us(ours / runs)}


def _median(turns: list[Row]) -> Row:
    def middle(column: str) -> Any:
        return median(float(turn[column] or 0) for turn in turns)

    return {column: middle(column) for column in turns[0]}


def postgres(options: Options) -> Iterator[Table]:
    """The writes of plain runs and nothing else: alone, together, with and without waiting for each commit."""
    runs, rounds = (200, 1) if options.quick else (1000, 3)
    found: dict[tuple[str, bool], list[Row]] = {(way, waits): [] for waits in (True, False) for way in WAYS}
    with limits_ground.running(options) as ground:
        for number in range(rounds):
            progress(f"postgres: round {number + 1} of {rounds}")
            for (way, waits), turns in found.items():
                turns.append(asyncio.run(_turn(ground, runs, WAYS[way], waits=waits)))
    rows: list[Row] = [
        {"way": way, "synchronous_commit": "on" if waits else "off", **_median(turns)}
        for (way, waits), turns in found.items()
    ]
    yield Table("postgres", "Writes of a plain run", rows, "claim, open, finish; the limit's own statements")
