"""Waits until a run is at rest, for those who want to know no more than that.

    listen to the run's channel ─▶ look: at rest? ─▶ wait until something is told, or some seconds ─▶ look again …

What is heard is a hint, Postgres is what counts: it is asked once more when a resting event was told, when the
connection to Redis was lost in between, and every few seconds, for pub/sub forgets. Nobody who waits holds a connection
of any kind: one subscriber listens for the whole process.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import structlog
from redis.exceptions import RedisError

from orchestrator.events import frames
from orchestrator.events.publisher import stream_key
from orchestrator.events.subscriber import Subscriber

log = structlog.get_logger(__name__)

RECHECK = 5.0
"""Seconds after which a run is looked at although nothing was told."""
BLIND = 1.0
"""The same, where Redis cannot be listened to."""


class Watcher:
    """Lets any number of callers of this process wait for any runs."""

    def __init__(self, subscriber: Subscriber) -> None:
        self._subscriber = subscriber

    async def watch(self, run_id: str, seconds: float, look: Callable[[], Awaitable[bool]]) -> None:
        """Return once `look` says that the run is at rest, or after so many seconds (and a last look)."""
        deadline = asyncio.get_running_loop().time() + seconds
        told = asyncio.Event()

        def hear(batch: bytes | None) -> None:
            if batch is None or frames.last_event(batch) in frames.RESTING:
                told.set()

        async with AsyncExitStack() as stack:
            pause = await self._listen(stack, run_id, hear, seconds)
            while True:
                told.clear()
                if await look():
                    return
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0:
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(pause, left)):
                        await told.wait()

    async def _listen(
        self, stack: AsyncExitStack, run_id: str, hear: Callable[[bytes | None], None], seconds: float
    ) -> float:
        """Listen until the stack ends; returns the seconds between two looks."""
        try:
            async with asyncio.timeout(seconds):
                await stack.enter_async_context(self._subscriber.listening(stream_key(run_id), hear))
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("run_watched_blindly", run_id=run_id, error=repr(error))
            return BLIND
        return RECHECK
