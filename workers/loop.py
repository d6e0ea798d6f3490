"""The worker process' one asyncio event loop, in a thread of its own, and the lifespan that opens what tasks share.

The lifespan is entered and left in one and the same asyncio task, so that it may hold task groups and cancel scopes. A
lifespan that ends by itself (its housekeeping loop crashed, say) is reported: a worker without its resources must not
go on.
"""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable
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
    """An event loop that runs from `start` to `stop`; `on_lost` is called there when the lifespan ends early.

    It is called before the lifespan closes what it opened, so that tasks end while their resources live.
    """

    def __init__(self, lifespan: Lifespan | None, on_lost: Callable[[], None]) -> None:
        self.loop: asyncio.AbstractEventLoop = _new_loop()
        self._lifespan = lifespan
        self._on_lost = on_lost
        self._leave = asyncio.Event()
        self._leaving = False
        self._stopped = False
        self._decided = threading.Event()  # the lifespan is entered, or over
        self._life: concurrent.futures.Future[None] | None = None
        # A daemon: a coroutine that never yields cannot be stopped, and must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="task-loop", daemon=True)

    def start(self, check: Callable[[], None]) -> None:
        """Run the loop and enter the lifespan. Raises LifespanError, or what `check`, called while we wait, raises."""
        self._thread.start()
        if self._lifespan is None:
            return
        self._life = asyncio.run_coroutine_threadsafe(self._live(self._lifespan), self.loop)
        self._life.add_done_callback(lambda _: self._decided.set())
        try:
            self._await_entry(check, self._life)
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
        if not self._leaving:
            self._leaving = True
            self.call(self._leave.set)
        self._await_exit()
        if self._stopped:
            return
        self._stopped = True
        try:
            asyncio.run_coroutine_threadsafe(self._cancel_leftovers(), self.loop).result(2 * LEFTOVER_TIMEOUT)
        except Exception:
            log.exception("event_loop_leftovers")
        self.call(self.loop.stop)
        self._thread.join(LEFTOVER_TIMEOUT)
        if self._thread.is_alive():
            log.error("event_loop_does_not_stop")
        else:
            self.loop.close()

    def _run(self) -> None:
        while not self._stopped:
            try:
                self.loop.run_forever()
            except BaseException:  # asyncio lets SystemExit of any child task through; the other tasks must live on
                log.exception("event_loop_interrupted")

    async def _live(self, lifespan: Lifespan) -> None:
        async with lifespan():
            self._decided.set()
            try:
                await self._leave.wait()
            finally:
                if not self._leaving:
                    self._on_lost()

    def _await_entry(self, check: Callable[[], None], life: "concurrent.futures.Future[None]") -> None:
        waited = 0.0
        while not self._decided.wait(0.1):
            check()
            waited += 0.1
            if waited >= ENTER_TIMEOUT:
                life.cancel()
                raise LifespanError from TimeoutError(f"not entered within {ENTER_TIMEOUT:g} s")
        if life.done():
            raise LifespanError from _error_of(life)

    def _await_exit(self) -> None:
        life = self._life
        if life is None:
            return
        concurrent.futures.wait([life], EXIT_TIMEOUT)
        if not life.done():
            log.error("lifespan_exit_timed_out", seconds=EXIT_TIMEOUT)
            life.cancel()
        self._life = None
        if error := _error_of(life):
            log.error("lifespan_failed", exc_info=error)

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


def _error_of(life: "concurrent.futures.Future[None]") -> BaseException | None:
    return life.exception() if life.done() and not life.cancelled() else None
