"""Tasks that run beside a block: started with it, ended with it, and never lost without a word."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

import structlog

from orchestrator.foreign import Json

log = structlog.get_logger(__name__)

INSIST = 0.5
"""Seconds between the cancellations of a task that does not end. One is often swallowed: `asyncio.wait_for` of Python
3.11 does when what it waits for has just been done, and redis-py sends each command through it.
"""
ATTEMPTS = 20


@asynccontextmanager
async def background(coroutine: Coroutine[Json, Json, None], name: str) -> AsyncIterator[None]:
    """Run `coroutine` while the block runs; it has ended when the block is left. If it fails before, that is logged."""
    task = asyncio.create_task(coroutine, name=name)
    task.add_done_callback(_report)
    try:
        yield
    finally:
        await end(task)


async def end(*tasks: "asyncio.Task[Json]") -> None:
    """Cancel tasks and return when they have ended, whatever with."""
    left = set(tasks)
    for _ in range(ATTEMPTS):
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=INSIST)
        if not left:
            break
    else:
        log.error("background_task_does_not_end", tasks=[task.get_name() for task in left])
    for task in set(tasks) - left:
        if not task.cancelled():
            task.exception()  # it was looked at: asyncio would complain


def _report(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("background_task_failed", task=task.get_name(), exc_info=error)
