"""What growth costs: long threads, and a table of a million runs. CPU of worker, API and Postgres, not time.

A figure is the CPU of all three for one operation, so that what a statement reads too much cannot hide in another
process. The context window is small: what a run tells the model is the same few messages whatever the thread holds, and
what is compared is what it costs to find them.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from statistics import median

from redis.asyncio import Redis

from bench import growth_rows, limits_ground, limits_rows
from bench.calls import Job
from bench.limits_ground import Ground
from bench.load import Generator, Load
from bench.report import Options, Row, Table, progress, us
from bench.stack import KEY

LENGTHS = (10, 100, 1000, 100_000)
THREADS = 8
"""Threads of each length; a turn carries one run on each, several times."""
WINDOW = 4096
"""Tokens that the model is told at most."""
MODEL = "bench-instant-40"
OLD = 1_000_000
Operation = Callable[[], int]
"""Does it some times, and returns how often."""


class Growth:
    """What is measured, and how."""

    def __init__(self, ground: Ground, generator: Generator) -> None:
        self.ground = ground
        self.generator = generator
        ground.stack.start_worker()
        ground.stack.start_api()
        self.assistant = ground.stack.assistant(MODEL)

    def cost(self, operation: Operation, rounds: int) -> float:
        """CPU seconds of one of them, all processes: the median of some rounds."""
        found = []
        for _ in range(rounds):
            with self.ground.stack.meter() as used:
                times = operation()
            found.append((used["worker"] + used["api"] + used["postgres"]) / times)
        return median(found)

    def runs_on(self, threads: list[str], turns: int) -> Operation:
        """Runs on these threads, all at once, and again."""

        def carry() -> int:
            for _ in range(turns):
                asyncio.run(self._carry(threads))
            return turns * len(threads)

        return carry

    def calls(self, call: str, paths: list[str], seconds: float) -> Operation:
        """A request, over and over."""

        def ask() -> int:
            address = self.ground.stack.base_url
            job = Job(address, call, KEY, model=MODEL, assistant=self.assistant, paths=tuple(paths))
            felt = self.generator.share(Load(job, clients=4, seconds=seconds))
            if felt.failed:
                raise RuntimeError(f"{call}: {felt.why}")
            return len(felt.totals)

        return ask

    def idle(self, seconds: float) -> Operation:
        """Nothing but housekeeping; its sweeps are counted by their interval."""

        def wait() -> int:
            time.sleep(seconds)
            return round(seconds / 0.5)

        return wait

    async def _carry(self, threads: list[str]) -> None:
        connection = await limits_rows.connect(self.ground.database)
        redis = Redis.from_url(self.ground.redis, protocol=3, legacy_responses=False)
        try:
            ids = await growth_rows.queue_runs(connection, threads, MODEL)
            queue, messages = limits_rows.wake_ups(ids)
            await redis.lpush(queue, *messages)
            await limits_rows.finished(connection)
        finally:
            await redis.aclose()
            await connection.close()


async def _long_threads(ground: Ground, lengths: tuple[int, ...], each: int) -> dict[int, list[str]]:
    connection = await limits_rows.connect(ground.database)
    found = {
        length: [await growth_rows.long_thread(connection, f"{length}v{number}v", length) for number in range(each)]
        for length in lengths
    }
    await growth_rows.settle(connection)
    await connection.close()
    return found


async def _fill(ground: Ground, count: int) -> None:
    connection = await limits_rows.connect(ground.database)
    await growth_rows.old_runs(connection, count)
    await connection.close()


def _threads(growth: Growth, options: Options) -> list[Row]:
    rounds, turns, each = (1, 4, 2) if options.quick else (3, 10, THREADS)
    threads = asyncio.run(_long_threads(growth.ground, LENGTHS, each))
    growth.runs_on(threads[LENGTHS[0]], 3)()  # warms up
    rows: list[Row] = []
    for length, known in threads.items():
        progress(f"growth: threads of {length:,} messages")
        pages = [f"/threads/{thread}/messages" for thread in known]
        first = [f"{page}?order=asc" for page in pages]
        costs = {
            "run": growth.cost(growth.runs_on(known, turns), rounds),
            "newest page": growth.cost(growth.calls("retrieve_run", pages, 1.0), rounds),
            "oldest page": growth.cost(growth.calls("retrieve_run", first, 1.0), rounds),
        }
        rows.append({"messages": length, **{f"{name}, µs": us(cost) for name, cost in costs.items()}})
    return _with_ratios(rows, against=1)


def _table(growth: Growth, options: Options) -> list[Row]:
    """Every operation before and after the table was filled."""
    rounds, seconds = (1, 1.0) if options.quick else (3, 2.0)
    threads = asyncio.run(_long_threads(growth.ground, (7,), 50))[7]
    runs = _some_runs(growth.ground)
    operations: dict[str, Operation] = {
        "run": growth.runs_on(threads, 4),
        "create thread and run": growth.calls("create_thread_and_run", [], seconds),
        "retrieve run": growth.calls("retrieve_run", runs, seconds),
        "list runs": growth.calls("retrieve_run", [run.rpartition("/")[0] for run in runs], seconds),
        "sweep": growth.idle(3 * seconds),
    }
    rows: list[Row] = []
    for count in (0, OLD // (5 if options.quick else 1)):
        if count:
            asyncio.run(_fill(growth.ground, count))
        progress(f"growth: {count:,} runs in the table")
        costs = {}
        for name, operation in operations.items():
            costs[name] = growth.cost(operation, rounds)
            asyncio.run(_rest(growth.ground))
        rows.append({"runs before": count, **{f"{name}, µs": us(cost) for name, cost in costs.items()}})
    return _with_ratios(rows, against=0)


def _some_runs(ground: Ground) -> list[str]:
    rows = ground.stack.fetch("SELECT thread_id, id FROM runs WHERE status = 'completed' LIMIT 200")
    return [f"/threads/{thread}/runs/{run}" for thread, run in rows]


async def _rest(ground: Ground) -> None:
    """Return when nothing is under way: what one operation began is not another's to pay."""
    connection = await limits_rows.connect(ground.database)
    await limits_rows.finished(connection)
    await connection.close()


def _with_ratios(rows: list[Row], *, against: int) -> list[Row]:
    """Under the figures, what they are of those of one row."""
    base = rows[against]
    first, *columns = base
    last = rows[-1]
    ratios: Row = {first: f"{last[first]:,} ÷ {base[first]:,}"}
    ratios |= {column: round(float(last[column] or 0) / float(base[column] or 1), 2) for column in columns}
    return [*rows, ratios]


def growth(options: Options) -> Iterator[Table]:
    """Long threads, and a million runs in the table: CPU of worker, API and Postgres for one operation."""
    window = {"ASSISTANTD_CONTEXT_WINDOW": str(WINDOW)}
    with limits_ground.running(options, environment=window) as ground, Generator(1) as generator:
        found = Growth(ground, generator)
        yield Table("growth", "CPU by length of the thread", _threads(found, options), f"{WINDOW:,} tokens are told")
        yield Table("growth", "CPU by runs in the table", _table(found, options))
