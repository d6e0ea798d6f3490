"""The limit and the worker beside it: the same runs, carried in turns by plain asyncio and by a real Celery worker.

Both find queued runs in Postgres, hear the same scripted model, write the same rows and send the same events; what they
have written is looked at after each turn. A turn of the one follows a turn of the other, and medians are shown: on a
machine that others use, too, only the ratios mean something. CPU is that of the measured process, all its threads.
"""

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from redis.asyncio import Redis

from bench import limits_ground, limits_rows
from bench.limits_ground import Child, Ground
from bench.limits_rows import Seeded
from bench.report import Options, Row, Table, progress

MARKER = "assistantd:marker"


@dataclass(frozen=True, slots=True)
class Scenario:
    """So many runs of a scripted model, so many at once."""

    model: str
    runs: int
    concurrency: int


SCENARIOS = {
    "instant": Scenario("bench-instant-40", 1000, 200),
    "paced": Scenario("bench-ideal", 500, 50),
    "2s": Scenario("bench-2s", 1000, 1000),
    "2000 at once": Scenario("bench-2s", 2000, 2000),
    "30s": Scenario("bench-30s", 1000, 1000),
}


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn cost."""

    who: str
    runs_per_s: float
    cpu_us: float
    rss_mb: float


class Bench:
    """The parties, and what they are measured with."""

    def __init__(self, ground: Ground, connection: Any, twin: Any, redis: Redis) -> None:
        self.ground = ground
        self.connection = connection
        self.twin = twin
        self.redis = redis

    def direct(self, client: str) -> Child:
        """The limit, ready."""
        where = ("--database", self.ground.twin, "--redis", self.ground.redis, "--model", self.ground.model)
        child = self.ground.bench("bench.limits_direct", *where, "--client", client)
        child.hear()
        return child

    def worker(self, concurrency: int) -> Child:
        """The worker, ready."""
        return self.ground.worker(ASSISTANTD_RUN_CONCURRENCY=str(concurrency))

    async def settled(self) -> None:
        """Return when a worker has seen that Redis is new to it. It wakes all that waits then, a second time."""
        async with asyncio.timeout(limits_ground.PATIENCE):
            while await self.redis.get(MARKER) is None:  # noqa: ASYNC110  # another process' doing
                await asyncio.sleep(0.01)

    async def carried_directly(self, child: Child, seeded: Seeded, concurrency: int) -> None:
        """Return when the limit has carried the runs."""
        child.tell(json.dumps({"runs": seeded.ids, "concurrency": concurrency}).encode())
        await asyncio.to_thread(child.hear, limits_rows.LONGEST)

    async def carried_by_worker(self, seeded: Seeded) -> None:
        """Return when the worker has carried the runs."""
        queue, messages = limits_rows.wake_ups(seeded.ids)
        await self.redis.lpush(queue, *messages)
        await limits_rows.finished(self.connection)

    async def turn(self, who: str, child: Child, scenario: Scenario, runs: int) -> Turn:
        """One turn of one party. Raises RuntimeError if not all runs end as they should."""
        directly = who.startswith("direct")
        connection = self.twin if directly else self.connection
        seeded = await limits_rows.seed(connection, runs, scenario.model)
        await connection.execute("ANALYZE runs, messages, run_steps, run_attempts, threads")
        cpu, began = child.cpu(), time.monotonic()
        if directly:
            await self.carried_directly(child, seeded, scenario.concurrency)
        else:
            await self.carried_by_worker(seeded)
        wall, spent = time.monotonic() - began, child.cpu() - cpu
        if wrong := await limits_rows.wrong(connection, seeded):
            raise RuntimeError(f"{wrong} runs of {who} did not end as they should:\n{child.log.read_text()[-4000:]}")
        return Turn(who, runs / wall, spent / runs * 1e6, child.memory(peak=True))


@asynccontextmanager
async def opened(ground: Ground) -> AsyncIterator[Bench]:
    """Connect to what the parties run on."""
    redis = Redis.from_url(ground.redis, protocol=3, legacy_responses=False)
    connection, twin = await limits_rows.connect(ground.database), await limits_rows.connect(ground.twin)
    try:
        yield Bench(ground, connection, twin, redis)
    finally:
        await redis.aclose()
        await connection.close()
        await twin.close()


async def measure(bench: Bench, scenario: Scenario, clients: tuple[str, ...], rounds: int) -> list[Turn]:
    """All turns of a scenario, the first (which warms up) left out."""
    parties = {f"direct, {client}": bench.direct(client) for client in clients}
    parties["worker"] = bench.worker(scenario.concurrency)
    turns = []
    try:
        await bench.settled()
        for number in range(rounds + 1):
            for who, child in parties.items():
                turn = await bench.turn(who, child, scenario, scenario.runs if number else min(scenario.runs, 100))
                if number:
                    turns.append(turn)
    finally:
        for child in parties.values():
            child.stop()
    return turns


def compared(name: str, turns: list[Turn]) -> list[Row]:
    """Medians of each party, and their ratios to the first of them."""
    rows: list[Row] = []
    limit: tuple[float, float] | None = None
    for who in dict.fromkeys(turn.who for turn in turns):
        mine = [turn for turn in turns if turn.who == who]
        speed, cpu = statistics.median(t.runs_per_s for t in mine), statistics.median(t.cpu_us for t in mine)
        limit = limit or (speed, cpu)
        rows.append(
            {
                "scenario": name,
                "who": who,
                "runs/s": round(speed),
                "× limit's speed": round(speed / limit[0], 3),
                "CPU a run, µs": round(cpu),
                "× limit's CPU": round(cpu / limit[1], 2),
                "peak memory, MB": round(max(t.rss_mb for t in mine)),
            }
        )
    return rows


async def _scenario(ground: Ground, name: str, clients: tuple[str, ...], rounds: int, share: float) -> list[Row]:
    scenario = SCENARIOS[name]
    scenario = replace(scenario, runs=int(scenario.runs * share))
    async with opened(ground) as bench:
        return compared(name, await measure(bench, scenario, clients, rounds))


def _limits(options: Options, title: str, names: tuple[str, ...], clients: tuple[str, ...]) -> Iterator[Table]:
    rounds, share = (1, 0.2) if options.quick else (3, 1.0)
    note = "medians of interleaved turns; every run was looked at afterwards"
    with limits_ground.running(options) as ground:
        for name in names:
            progress(f"limits: {name}")
            yield Table(
                "limits", f"{title}: {name}", asyncio.run(_scenario(ground, name, clients, rounds, share)), note
            )


def limits(options: Options) -> Iterator[Table]:
    """One worker process beside plain asyncio that does the same work: runs/s and CPU a run."""
    yield from _limits(options, "The worker beside plain asyncio", ("instant", "paced"), ("bare", "aiohttp"))


def at_once(options: Options) -> Iterator[Table]:
    """1,000 and 2,000 runs at once in one worker process, beside plain asyncio: runs/s, CPU, memory."""
    yield from _limits(options, "Many runs at once in one process", ("2s", "2000 at once", "30s"), ("bare",))
