"""Tasks that run beside a block: started with it, ended with it, and never lost without a word."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

import structlog

from orchestrator.foreign import Json

log = structlog.get_logger(__name__)

INSIST = 0.5
"""Seconds between the cancellations of a task that does not end: libraries have been seen to swallow one."""
ATTEMPTS = 20


@asynccontextmanager
async def background(coroutine: Coroutine[Json, Json, None], name: str) -> AsyncIterator[None]:
    """Run `coroutine` while the block runs; it has ended when the block is left. If it fails before, that is logged."""
    task = asyncio.create_task(coroutine, name=name)
    task.add_done_callback(_report)
    try:
        yield
    finally:
        for _ in range(ATTEMPTS):
            task.cancel()
            await asyncio.wait([task], timeout=INSIST)
            if task.done():
                break
        else:
            log.error("background_task_does_not_end", task=name)


def _report(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("background_task_failed", task=task.get_name(), exc_info=error)
