"""Ends a worker process whose event loop hangs: a coroutine that never yields, a call that blocks for ever.

Its runs are others' by then, for its lease has run out; what is left is a process that takes wake-ups and does nothing.
Whatever started it starts another. Time is counted in the watchdog's own wake-ups, not by a clock: a process that was
stopped as a whole (SIGSTOP, a laptop that slept) wakes up with both of its threads, and is not at fault.
"""

import asyncio
import os
import sys
import threading
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

log = structlog.get_logger(__name__)

LOOKS = 20
"""Looks at the loop in a row that must find it hanging."""
EXIT_CODE = 70


@asynccontextmanager
async def watched(patience: float) -> AsyncIterator[None]:
    """End the process if the running event loop does nothing for some `patience` seconds while the block runs."""
    loop, hanging, over = asyncio.get_running_loop(), threading.get_ident(), threading.Event()
    watching = threading.Thread(target=_watch, args=(loop, hanging, over, patience), name="watchdog", daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()


def _watch(loop: asyncio.AbstractEventLoop, thread: int, over: threading.Event, patience: float) -> None:
    ticked, missed = threading.Event(), 0
    ticked.set()
    while not over.wait(patience / LOOKS):
        if not ticked.is_set():
            missed += 1
            if missed >= LOOKS:
                _end(thread, patience)
            continue
        ticked.clear()
        missed = 0
        try:
            loop.call_soon_threadsafe(ticked.set)
        except RuntimeError:  # it is closed
            return


def _end(thread: int, patience: float) -> None:
    frame = sys._current_frames().get(thread)
    where = "".join(traceback.format_stack(frame)[-12:]) if frame else ""
    log.critical("event_loop_hangs", seconds=patience, frames=where)
    os._exit(EXIT_CODE)  # nothing that would wait for the loop
