"""What Celery costs around a run: an empty task over the stock transport and over ours, and to enqueue one.

Both ways run in turns, over the same Redis, with the same messages; medians are shown.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from redis.asyncio import Redis

from bench import limits_ground
from bench.limits_ground import Child, Ground
from bench.report import Options, Row, Table, progress, us
from orchestrator import queue

TASK = "bench.empty"
STOCK, OURS = "Celery's own", "ours"
BATCHES = {STOCK: "false", OURS: "true"}
CONCURRENCY = 200
CALLS = 2000


async def _drain(redis: Redis, child: Child, tasks: int) -> tuple[float, float]:
    """CPU seconds and seconds that a worker needs for so many empty tasks."""
    messages = [queue.message(TASK, f"run_{number:024}", 0)[1] for number in range(tasks)]
    cpu, began = child.cpu(), time.monotonic()
    await redis.lpush(queue.QUEUE, *messages)
    while await redis.llen(queue.QUEUE) or await redis.hlen("unacked"):
        if time.monotonic() > began + limits_ground.PATIENCE:
            raise RuntimeError(f"The tasks were not carried out:\n{child.log.read_text()[-3000:]}")
        await asyncio.sleep(0.02)
    return child.cpu() - cpu, time.monotonic() - began


def _empty_tasks(ground: Ground, tasks: int, rounds: int) -> list[Row]:
    """Only one of the workers lives at a time: they share the queue."""
    found: dict[str, list[tuple[float, float]]] = {STOCK: [], OURS: []}
    through = str(Path(__file__).with_name("celery_worker.py"))
    for _ in range(rounds):
        for way, batches in BATCHES.items():
            told = {"ASSISTANTD_BROKER_BATCHES": batches, "ASSISTANTD_RUN_CONCURRENCY": str(CONCURRENCY)}
            child = ground.worker(through=through, ready=" ready", **told)
            found[way].append(asyncio.run(_measured(ground, child, tasks)))
            child.stop()
    return [_row(way, [(cpu / tasks, wall / tasks) for cpu, wall in turns]) for way, turns in found.items()]


async def _measured(ground: Ground, child: Child, tasks: int) -> tuple[float, float]:
    redis = Redis.from_url(ground.redis, protocol=3, legacy_responses=False)
    try:
        await _drain(redis, child, tasks // 10)  # warms up
        return await _drain(redis, child, tasks)
    finally:
        await redis.aclose()


def _row(way: str, turns: list[tuple[float, float]]) -> Row:
    cpu, wall = (statistics.median(column) for column in zip(*turns, strict=True))
    return {"transport": way, "CPU a task, µs": us(cpu), "tasks/s": round(1 / wall)}


def _enqueuing(ground: Ground, calls: int, rounds: int) -> list[Row]:
    found: dict[str, list[dict[str, float]]] = {"stock": [], "ours": []}
    for _ in range(rounds):
        for way, turns in found.items():
            command = [sys.executable, "-P", str(Path(__file__).with_name("celery_enqueue.py")), way, str(calls)]
            environment = {**ground.stack.environment, "PYTHONPATH": str(ground.stack.options.tree)}
            done = subprocess.run(
                command, cwd=ground.stack.options.tree, env=environment, capture_output=True, timeout=120, check=True
            )
            turns.append(json.loads(done.stdout))
            asyncio.run(_forget(ground))
    return [
        {
            "way": {"stock": "apply_async", "ours": "queue.message, one publisher"}[way],
            "CPU a call, µs": us(statistics.median(turn["cpu"] for turn in turns)),
            "longest stall, ms": round(statistics.median(turn["stall"] for turn in turns) * 1e3, 1),
        }
        for way, turns in found.items()
    ]


async def _forget(ground: Ground) -> None:
    redis = Redis.from_url(ground.redis, protocol=3, legacy_responses=False)
    await redis.delete(queue.QUEUE)
    await redis.aclose()


def _compared(rows: list[Row], column: str) -> list[Row]:
    """With the ratio of each to the first."""
    first = rows[0][column]
    return [{**row, "× stock": round(float(row[column] or 0) / float(first or 1), 3)} for row in rows]


def celery_costs(options: Options) -> Iterator[Table]:
    """CPU of an empty Celery task, and of enqueuing one, beside what Celery does by itself."""
    rounds, share = (1, 4) if options.quick else (3, 1)
    with limits_ground.running(options) as ground:
        progress("celery: empty tasks")
        tasks = _empty_tasks(ground, CALLS // share, rounds)
        yield Table("celery", "An empty task", _compared(tasks, "CPU a task, µs"), "the same pool, two transports")
        progress("celery: enqueuing")
        calls = _enqueuing(ground, CALLS // share, rounds)
        yield Table("celery", "To enqueue a task, ten at once", _compared(calls, "CPU a call, µs"))
