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
ROUNDS = 7
"""Turns of each operation with few and with many runs in the table."""
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
        return median(self.round(operation) for _ in range(rounds))

    def round(self, operation: Operation) -> float:
        """The same of one round."""
        with self.ground.stack.meter() as used:
            times = operation()
        return (used["worker"] + used["api"] + used["postgres"]) / times

    def runs_on(self, threads: list[str], turns: int) -> Operation:
        """Runs on these threads, all at once, and again."""

        def carry() -> int:
            asyncio.run(self._carry(threads, turns))
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

    async def _carry(self, threads: list[str], turns: int) -> None:
        connection = await limits_rows.connect(self.ground.database)
        redis = Redis.from_url(self.ground.redis, protocol=3, legacy_responses=False)
        try:
            for _ in range(turns):
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


def _table(few: Growth, many: Growth, options: Options) -> list[Row]:
    """Every operation where the table is nearly empty and where it is full, in turns: the machine is the same for both,
    and so is what has happened before.
    """
    rounds = 2 if options.quick else ROUNDS
    count = OLD // (5 if options.quick else 1)
    progress(f"growth: {count:,} runs in the table")
    asyncio.run(_fill(many.ground, count))
    kept = {few: 0, many: count}
    operations = {growth: _operations(growth, options) for growth in kept}
    for growth, known in operations.items():
        for operation in known.values():
            operation()  # warms up
        asyncio.run(_settle(growth.ground))
    rows: dict[Growth, Row] = {growth: {"runs before": before} for growth, before in kept.items()}
    for name in operations[few]:
        progress(f"growth: {name}")
        costs: dict[Growth, list[float]] = {growth: [] for growth in kept}
        for _ in range(rounds):
            for growth, found in costs.items():
                found.append(growth.round(operations[growth][name]))
                asyncio.run(_rest(growth.ground))
        for growth, found in costs.items():
            rows[growth][f"{name}, µs"] = us(median(found))
    return _with_ratios(list(rows.values()), against=0)


def _operations(growth: Growth, options: Options) -> dict[str, Operation]:
    turns, seconds = (2, 1.0) if options.quick else (8, 2.0)
    threads = asyncio.run(_long_threads(growth.ground, (7,), 50))[7]
    growth.runs_on(threads, 4)()
    runs = _some_runs(growth.ground)
    return {
        "run": growth.runs_on(threads, turns),
        "create thread and run": growth.calls("create_thread_and_run", [], seconds),
        "retrieve run": growth.calls("retrieve_run", runs, seconds),
        "list runs": growth.calls("retrieve_run", [run.rpartition("/")[0] for run in runs], seconds),
        "sweep": growth.idle(3 * seconds),
    }


def _some_runs(ground: Ground) -> list[str]:
    rows = ground.stack.fetch("SELECT thread_id, id FROM runs WHERE status = 'completed' LIMIT 200")
    return [f"/threads/{thread}/runs/{run}" for thread, run in rows]


async def _settle(ground: Ground) -> None:
    await _rest(ground)
    connection = await limits_rows.connect(ground.database)
    await growth_rows.settle(connection)
    await connection.close()


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
    with Generator(1) as generator, limits_ground.running(options, environment=window) as ground:
        rows = _threads(Growth(ground, generator), options)
        yield Table("growth", "CPU by length of the thread", rows, f"{WINDOW:,} tokens are told")
    with (
        Generator(1) as generator,
        limits_ground.running(options, environment=window) as one,
        limits_ground.running(options, environment=window) as other,
    ):
        rows = _table(Growth(one, generator), Growth(other, generator), options)
        yield Table("growth", "CPU by runs in the table", rows, "in turns, each in a database of its own")
