"""One delivery of a task on its way through the pool: run in the loop thread, settled with Celery in the hub thread.

    waiting ──start──▶ running ──report(None)──▶ ended          `settled`: Celery knows the outcome; a hard limit or a
                        │  └──report(SOFT | HARD)                 revoke settles a job before it ends
                        └ cancel(why): CancelledError(why) in the coroutine

What must not be forgotten:

- Whatever a coroutine ends with, SystemExit included, arrives as a report: nothing may get lost between the threads.
- A stop at shutdown leaves the message unacknowledged, so that the broker hands it out again; but a coroutine that
  returns although it was cancelled has finished, and counts so.
- A second cancel would end the clean-up that the first one began: only a soft limit may be followed by another.
"""

import asyncio
import os
import signal as signals
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import TypeAlias

import structlog
from celery.concurrency.base import ExceptionInfo  # type: ignore[attr-defined]  # billiard's, which comes with Celery
from celery.exceptions import SoftTimeLimitExceeded, Terminated

from orchestrator.foreign import Json
from workers.tasks import AsyncTask, Outcome, SelfCancelledError, replay

Callback: TypeAlias = Callable[..., Json]

NOTHING = Outcome()

log = structlog.get_logger(__name__)


class Stop(StrEnum):
    """Why the pool ends a job; it is the argument of the CancelledError."""

    SOFT = "soft time limit"
    HARD = "hard time limit"
    TERMINATED = "terminated"
    SHUTDOWN = "shutdown"


class Job:
    """A delivery. Celery's request holds it weakly and calls `terminate`.

    `report(job, stop)` is how the loop thread tells the pool that the job ran into a limit or, with None, ended.
    """

    def __init__(
        self,
        trace: Callback,
        payload: tuple[Json, ...],
        task: Json,
        callbacks: dict[str, Json],
        report: Callable[["Job", Stop | None], None],
        terminate: Callable[["Job"], None],
    ) -> None:
        self.names = {"task": payload[0], "task_id": payload[1]}
        self.is_coroutine = isinstance(task, AsyncTask)
        self.settled = False
        self.soft: float | None = callbacks["soft_timeout"]
        self.hard: float | None = callbacks["timeout"]
        self._trace = trace
        self._payload = payload  # the tracer's arguments: name, id, request, …
        self._task = task
        self._on_accepted: Callback = callbacks["accept_callback"]
        self._on_end: Callback = callbacks["callback"]
        self._on_error: Callback = callbacks["error_callback"]
        self._on_timeout: Callback = callbacks["timeout_callback"]
        self._report = report
        self._terminate = terminate
        self._started = self._began = 0.0
        self._signal = int(signals.SIGTERM)
        self.runner: asyncio.Task[Outcome] | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._stopped: Stop | None = None
        self._outcome: Outcome | None = None

    # -- in the hub thread --

    def accept(self) -> None:
        """Tell Celery that this job starts (it acknowledges now what is not acknowledged late)."""
        self._started = time.monotonic()
        self._on_accepted(os.getpid(), self._started)

    def terminate(self, signal: int | None = None) -> None:
        """Celery wants this job ended: a revoke, a lost connection or a shutdown; its request knows which."""
        self._signal = int(signal or signals.SIGTERM)
        self._terminate(self)

    def limit_reached(self, stop: Stop) -> None:
        """Have Celery log a soft limit, or fail the task for a hard one."""
        if self.settled:
            return
        self.settled = stop is Stop.HARD
        self._on_timeout(stop is Stop.SOFT, self.hard if self.settled else self.soft)

    def settle(self) -> None:
        """Tell Celery the outcome, once; at a shutdown tell nothing."""
        outcome, self._outcome = self._outcome or Outcome(), None
        error = outcome.error
        if error is not None and self._stopped in (Stop.HARD, Stop.TERMINATED, Stop.SHUTDOWN):
            if not isinstance(error, asyncio.CancelledError):
                log.warning("task_failed_while_stopping", **self.names, reason=str(self._stopped), exc_info=error)
            if self._stopped is Stop.TERMINATED:
                self.settle_terminated()
            self.settled = True
        if self.settled:
            return
        self.settled = True
        if self.is_coroutine:
            self._settle_coroutine(outcome)
        elif error is not None:
            self._on_error(outcome.value)
        else:
            self._on_end(outcome.value)

    def settle_terminated(self) -> None:
        """Tell Celery that the job was ended on its own wish; what it does depends on that wish."""
        if self.settled:
            return
        self.settled = True
        try:
            raise Terminated(self._signal)
        except Terminated:
            self._on_error(ExceptionInfo())

    def _settle_coroutine(self, outcome: Outcome) -> None:
        if isinstance(outcome.error, asyncio.CancelledError):
            outcome = Outcome(error=self._failure(outcome.error))
        if outcome == NOTHING and self._task.is_plain(self._payload):
            self._on_end((0, "None", time.monotonic() - self._started))
            return
        try:
            failed, value, _ = replay(outcome, self._trace, self._payload)
        except BaseException:
            self._on_error(ExceptionInfo())
        else:
            self._on_end((failed, value, time.monotonic() - self._started))

    def _failure(self, cancelled: asyncio.CancelledError) -> Exception:
        error = SoftTimeLimitExceeded(self.soft) if self._stopped is Stop.SOFT else SelfCancelledError(*cancelled.args)
        return error.with_traceback(cancelled.__traceback__)

    # -- in the loop thread --

    def start(self) -> None:
        """Run the coroutine, or start the thread, and the clocks of its limits."""
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        if self._stopped:
            self._finish(Outcome(error=asyncio.CancelledError(str(self._stopped))))
            return
        if self.is_coroutine:
            self.runner = loop.create_task(self._run(), name=f"{self.names['task']}[{self.names['task_id']}]")
            self.runner.add_done_callback(self._ended)
        else:
            self._start_thread(loop)
        limits = ((self.soft, Stop.SOFT), (self.hard, Stop.HARD))
        self._timers = [loop.call_later(seconds, self._reach, stop) for seconds, stop in limits if seconds]

    def cancel(self, why: Stop) -> None:
        """Cancel the coroutine unless it ended or is ending already; a thread only gets to know by its outcome."""
        if self._stopped not in (None, Stop.SOFT):
            return
        if self.runner is None or not self.runner.done():
            self._stopped = why
        if self.runner is not None:
            self.runner.cancel(str(why))

    def took(self) -> float:
        """Seconds since it was started."""
        return asyncio.get_running_loop().time() - self._began

    async def _run(self) -> Outcome:
        try:
            return Outcome(await self._task.call(self._payload[2]))
        except BaseException as error:  # SystemExit, too, is this task's outcome and not the loop's
            return Outcome(error=error)

    def _ended(self, runner: "asyncio.Task[Outcome]") -> None:
        # A task that is cancelled before its first step never enters `_run`.
        self._finish(Outcome(error=asyncio.CancelledError()) if runner.cancelled() else runner.result())

    def _start_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        def run() -> None:
            try:
                outcome = Outcome(self._trace(*self._payload))
            except BaseException as error:
                outcome = Outcome(ExceptionInfo(), error)
            with suppress(RuntimeError):  # the loop is closed: the pool has given this task up
                loop.call_soon_threadsafe(self._finish, outcome)

        try:
            threading.Thread(target=run, name=self.names["task"], daemon=True).start()
        except RuntimeError as error:  # the system has no thread left
            loop.call_soon(self._finish, Outcome(ExceptionInfo(), error))

    def _finish(self, outcome: Outcome) -> None:
        for timer in self._timers:
            timer.cancel()
        self._outcome = outcome
        self._report(self, None)

    def _reach(self, stop: Stop) -> None:
        self._report(self, stop)
        self.cancel(stop)
