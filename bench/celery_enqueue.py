"""What it costs to enqueue a task from an event loop, and for how long that holds up the loop: `bench.celery_costs`
starts it.

    python bench/celery_enqueue.py ours|stock CALLS         prints CPU seconds a call, and the longest stall in seconds

Requests come in handfuls. `ours` is the product's way: a message made by hand, and one publisher per process.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

import uvloop
from celery import Celery

from orchestrator import queue, resources
from orchestrator.settings import get_settings

HANDFUL = 10
PAUSE = 0.002
TASK = "bench.enqueued"
ATTEMPT = 0


class Stalls:
    """How late a timer comes that should come each millisecond."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time()
        self._look()

    def _look(self) -> None:
        now = self._loop.time()
        self.longest = max(self.longest, now - self._due)
        self._due = now + 0.001
        self._handle = self._loop.call_at(self._due, self._look)

    def stop(self) -> None:
        """Look no more."""
        self._handle.cancel()


async def _handfuls(enqueue: Callable[[str], Awaitable[None]], calls: int) -> tuple[float, float]:
    """CPU seconds of all calls together, and the longest stall."""
    await asyncio.gather(*(enqueue(f"run_{number}") for number in range(HANDFUL)))  # connects, imports
    stalls = Stalls()
    cpu, pauses = time.process_time(), calls // HANDFUL
    for _ in range(pauses):
        await asyncio.gather(*(enqueue(f"run_{number:024}") for number in range(HANDFUL)))
        await asyncio.sleep(PAUSE)
    spent = time.process_time() - cpu
    stalls.stop()
    cpu = time.process_time()
    idle = Stalls()
    for _ in range(pauses):
        await asyncio.gather(*(_nothing() for _ in range(HANDFUL)))
        await asyncio.sleep(PAUSE)
    idle.stop()
    return spent - (time.process_time() - cpu), stalls.longest


async def _nothing() -> None:
    """What the measuring itself costs is taken off."""


async def ours(calls: int) -> tuple[float, float]:
    """As the API does it after a commit: push, and wait until it is sent."""
    async with resources.opened(get_settings()) as opened:
        publisher = opened.database.publisher

        async def enqueue(run_id: str) -> None:
            publisher.push(*queue.message(TASK, run_id, ATTEMPT))
            await publisher.flush()

        return await _handfuls(enqueue, calls)


async def stock(calls: int) -> tuple[float, float]:
    """As Celery's users do it."""
    app = Celery("bench", broker=get_settings().redis_url.get_secret_value())
    app.conf.update(task_default_queue=queue.QUEUE, task_ignore_result=True)

    @app.task(name=TASK)
    def task(run_id: str, attempt: int) -> None:
        """Never carried out here."""

    async def enqueue(run_id: str) -> None:
        task.apply_async((run_id, ATTEMPT))

    return await _handfuls(enqueue, calls)


def main() -> None:
    """Measure one way."""
    way, calls = sys.argv[1], int(sys.argv[2])
    cpu, stall = uvloop.run({"ours": ours, "stock": stock}[way](calls))
    print(json.dumps({"cpu": cpu / calls, "stall": stall}))


if __name__ == "__main__":
    main()
