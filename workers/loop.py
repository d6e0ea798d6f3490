"""The worker process' one asyncio event loop, in a thread of its own, and the lifespan that opens what tasks share.

The lifespan is entered and left in one and the same asyncio task, so that it may hold task groups and cancel scopes. A
lifespan that ends by itself (its housekeeping loop crashed, say) is reported: a worker without its resources must not
go on.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import structlog

from orchestrator.foreign import Json

Lifespan = Callable[[], AbstractAsyncContextManager[None]]

ENTER_TIMEOUT = 60.0
EXIT_TIMEOUT = 10.0
LEFTOVER_TIMEOUT = 2.0

log = structlog.get_logger(__name__)


class LifespanError(Exception):
    """The lifespan could not be entered; the cause is chained."""


class LoopThread:
    """An event loop that runs from `start` to `stop`; `on_lost` is awaited there when the lifespan ends early.

    The lifespan closes nothing before `on_lost` returns, so that tasks can end while their resources live.
    """

    def __init__(self, lifespan: Lifespan | None, on_lost: Callable[[], Awaitable[None]]) -> None:
        self.loop: asyncio.AbstractEventLoop = _new_loop()
        self._lifespan = lifespan
        self._on_lost = on_lost
        self._leave = asyncio.Event()
        self._entered = threading.Event()
        self._left = threading.Event()
        self._error: BaseException | None = None
        self._life: asyncio.Task[None] | None = None
        self._leaving = self._stopped = self._ended = False
        # A daemon: a coroutine that never yields cannot be stopped, and must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="task-loop", daemon=True)

    def start(self, check: Callable[[], None]) -> None:
        """Run the loop and enter the lifespan. Raises LifespanError, or what `check`, called while we wait, raises."""
        self._thread.start()
        if self._lifespan is None:
            return
        self.call(self._begin_life, self._lifespan)
        try:
            self._await_entry(check)
        except BaseException:
            self.stop()
            raise

    def call(self, function: Callable[..., object], *args: Json) -> bool:
        """Have `function(*args)` called in the loop's thread, in order. False when the loop is closed."""
        try:
            self.loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            return False
        return True

    def stop(self) -> None:
        """Leave the lifespan, cancel what is left, end the thread; every step is bounded. Harmless when repeated."""
        if self._lifespan is not None and not self._leaving:
            self._leaving = True
            self.call(self._end_life)
            self._await_exit()
        if self._stopped:
            return
        self._stopped = True
        try:
            asyncio.run_coroutine_threadsafe(self._cancel_leftovers(), self.loop).result(2 * LEFTOVER_TIMEOUT)
        except Exception:
            log.exception("event_loop_leftovers")
        self.call(self._end)
        self._thread.join(LEFTOVER_TIMEOUT)
        if self._thread.is_alive():
            log.error("event_loop_does_not_stop")
        else:
            self.loop.close()

    def _await_entry(self, check: Callable[[], None]) -> None:
        deadline = time.monotonic() + ENTER_TIMEOUT
        while not self._entered.wait(0.1) and not self._left.is_set():
            check()
            if time.monotonic() > deadline:
                raise LifespanError from TimeoutError(f"not entered within {ENTER_TIMEOUT:g} s")
        if self._left.is_set():
            raise LifespanError from self._error

    def _await_exit(self) -> None:
        if not self._left.wait(EXIT_TIMEOUT):
            log.error("lifespan_exit_timed_out", seconds=EXIT_TIMEOUT)
            if self._life:
                self.call(self._life.cancel)
            self._left.wait(LEFTOVER_TIMEOUT)
        if self._error:
            log.error("lifespan_failed", exc_info=self._error)

    # -- in the loop thread --

    def _run(self) -> None:
        while not self._ended:
            try:
                self.loop.run_forever()
            except BaseException:  # asyncio lets SystemExit of any child task through; the other tasks must live on
                log.exception("event_loop_interrupted")

    def _end(self) -> None:
        self._ended = True
        self.loop.stop()

    def _begin_life(self, lifespan: Lifespan) -> None:
        self._life = self.loop.create_task(self._live(lifespan), name="lifespan")
        self._life.add_done_callback(self._on_life_over)

    async def _live(self, lifespan: Lifespan) -> None:
        async with lifespan():
            self._entered.set()
            try:
                await self._leave.wait()
            finally:
                if not self._leaving:
                    await self._on_lost()

    def _end_life(self) -> None:
        self._leave.set()
        if self._life and not self._entered.is_set():
            self._life.cancel()

    def _on_life_over(self, life: "asyncio.Task[None]") -> None:
        self._error = None if life.cancelled() else life.exception()
        self._left.set()

    async def _cancel_leftovers(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=LEFTOVER_TIMEOUT)
        await self.loop.shutdown_asyncgens()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # not made for every platform
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
