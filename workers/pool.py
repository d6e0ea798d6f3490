"""A Celery pool that runs `async def` tasks on one event loop per process: a waiting task costs kilobytes, no process.

    hub thread (Celery's main thread)                       loop thread (uvloop where there is one)
    on_apply → lane → accept_callback ──── call ──────────▶ coroutine runs, its limits are timers
    replay in Celery's tracer → callback ◀── report, wake ── coroutine ended

    celery -A workers.app worker -P custom -c N             with CELERY_CUSTOM_WORKER_POOL=workers.pool:TaskPool

What must not be forgotten:

- Callbacks, tracer and lanes belong to the hub thread, coroutines and timers to the loop thread. Only reports cross,
  several at a time if they can.
- Celery's cold shutdown runs inside a signal handler of the hub thread: it may interrupt any line of that thread.
- With `-c N` and `worker_prefetch_multiplier=1` the broker hands out at most N unacknowledged messages; the rest stays
  there for other workers. What comes in beyond that (ETA tasks that fall due, tasks that acknowledge early) waits in a
  lane, unaccepted: never are more than N coroutines at work, and what waits at shutdown goes back to the broker.
- Plain `def` tasks run in threads, at most SYNC_THREADS at once. Nothing can stop a thread: a soft limit is only
  logged, a hard limit or a revoke settles the task while its thread runs on and keeps its place.
- A coroutine that never yields stops every other one; nothing can end it but the end of the process.
- Not there by design: max_tasks_per_child, max_memory_per_child, autoscale, Windows (no event loop in Celery there).
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

import structlog
from celery import signals
from celery.concurrency.base import BasePool
from celery.concurrency.prefork import _run_ready_callbacks  # type: ignore[attr-defined]
from celery.exceptions import ImproperlyConfigured, WorkerShutdown
from celery.platforms import EX_FAILURE
from celery.utils import log as celery_log
from celery.worker import state

from orchestrator.foreign import Json
from workers.drain import GRACE, Drain, Manners
from workers.job import Job, Stop
from workers.loop import Lifespan, LifespanError, LoopThread
from workers.reports import Reports
from workers.starts import Starts
from workers.tasks import Call, async_task

__all__ = ["Call", "TaskPool", "async_task", "lifespan", "mannered"]

SYNC_THREADS = 8
COMPANY = 0.02  # seconds for which a job that has ended may wait for others before Celery hears of them, …
PATIENCE = 20  # … and where places get scarce no more than this part of the time it took: its own is not free meanwhile
ROOMY = 0.75  # part of the places; where more are taken, they are scarce

Report: TypeAlias = tuple[Job, Stop | None]

log = structlog.get_logger(__name__)

_lifespan: Lifespan | None = None
_manners: Manners | None = None


def lifespan(factory: Lifespan) -> Lifespan:
    """Register what the pool enters on its loop before the first task and leaves after the last (also a decorator).

    One per process, registered by a module that the worker imports. When entering raises, the worker exits non-zero;
    when it ends by itself later on, the worker gives its tasks back to the broker and exits non-zero.
    """
    global _lifespan
    if _lifespan is not None and _lifespan is not factory:
        raise RuntimeError("a worker has one lifespan, and one is registered already")
    _lifespan = factory
    return factory


def mannered(tell: Callable[[bool], None], within: float) -> None:
    """Register how tasks are told that the worker was asked to stop: `tell(False)` at once, so that they come to an end
    by themselves; `tell(True)` after `within` seconds, or when it is asked again. Then they have GRACE seconds left.

    Without it the worker waits for its tasks, however long they take, until it is asked again.
    """
    global _manners
    _manners = Manners(tell, within)


class Lane:
    """Jobs of one kind: those at work, at most `limit`, and those that wait for a place, in order."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running: set[Job] = set()
        self.waiting: deque[Job] = deque()


class TaskPool(BasePool):
    """See the module. Celery makes one per worker process and calls every method in the hub thread."""

    signal_safe = False
    body_can_be_buffer = True

    def on_start(self) -> None:
        """Start the loop and enter the lifespan; the worker consumes nothing before."""
        if self.options.get("threads"):
            raise ImproperlyConfigured("workers.pool:TaskPool needs a broker with an event loop, such as Redis")
        for option in ("maxtasksperchild", "max_memory_per_child"):
            if self.options.get(option):
                log.warning("worker_option_has_no_effect", option=option)
        self._hub: Json = None
        self._coroutines = Lane(self.limit)
        self._functions = Lane(min(self.limit, SYNC_THREADS))
        self._left: list[Job] = []
        self._executed = 0
        self._closing = self._closed = self._lost = False
        self._loop = LoopThread(_lifespan, self._on_lifespan_lost)
        self._starts = Starts(self._loop, self._start)
        self._reports = Reports(self._loop, self._handle)
        try:
            self._loop.start(state.maybe_shutdown)
        except LifespanError as error:
            log.critical("worker_did_not_start", reason=repr(error.__cause__))
            raise WorkerShutdown(EX_FAILURE) from error
        self._drain = Drain(_manners, self._loop.call)
        signals.worker_shutting_down.connect(self._on_asked_to_stop, weak=False)

    def register_with_event_loop(self, loop: Json) -> None:
        """Have Celery's hub look at our reports; called again, with an emptied hub, after each reconnect."""
        self._hub = loop
        loop.add_reader(self._reports.wake.fileno(), self._handle_reports)
        loop.on_tick.add(self._look)

    def on_apply(self, target: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Job:  # type: ignore[override]
        """Take a delivery. It is accepted and starts when its lane has a place."""
        for limit in ("soft_timeout", "timeout"):  # the task's own, else the worker's
            options[limit] = options.get(limit) or self.options.get(limit)
        job = Job(target, tuple(args), self.app.tasks[args[0]], options, self._report, self._terminate_job)
        if self._closing:  # it stays unacknowledged and goes back to the broker
            self._left.append(job)
        else:
            lane = self._lane(job)
            lane.waiting.append(job)
            self._pump(lane)
        return job

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Nothing: there is no process to signal. Celery calls `Job.terminate` next."""

    def flush(self) -> None:
        """Drop what was not accepted: the connection is gone and the broker will hand it out again."""
        for lane in (self._coroutines, self._functions):
            lane.waiting.clear()

    def grow(self, n: int = 1) -> None:
        """Allow `n` more coroutines (`celery control pool_grow`)."""
        self.limit = self._coroutines.limit = self.limit + n
        self._pump(self._coroutines)

    def shrink(self, n: int = 1) -> None:
        """Allow `n` fewer coroutines, at least one; those at work stay."""
        self.limit = self._coroutines.limit = max(1, self.limit - n)

    def on_close(self) -> None:
        """Start nothing more. What waits is kept: Celery knows its requests by weak references only, and what it does
        not know it cannot give back.
        """
        self._closing = True
        for lane in (self._coroutines, self._functions):
            self._left += lane.waiting
        self.flush()

    def on_stop(self) -> None:
        """Warm: wait for what runs, see `mannered`. Cold shutdowns come this way, too, once all that was cancelled."""
        self._shut_down()

    def on_terminate(self) -> None:
        """Cold: cancel what runs and leave it to the broker."""
        self._lost = True
        self._shut_down()

    def _get_info(self) -> dict[str, Any]:
        return {
            **super()._get_info(),  # type: ignore[misc]
            "max-concurrency": self.limit,
            "max-threads": self._functions.limit,
            "running": len(self._coroutines.running),
            "threads": len(self._functions.running),
            "waiting": len(self._coroutines.waiting) + len(self._functions.waiting),
            "executed": self._executed,
            "event-loop": type(self._loop.loop).__module__,
        }

    # -- jobs --

    def _lane(self, job: Job) -> Lane:
        return self._coroutines if job.is_coroutine else self._functions

    def _pump(self, lane: Lane) -> None:
        while lane.waiting and len(lane.running) < lane.limit and not self._closing:
            job = lane.waiting.popleft()
            lane.running.add(job)
            if self._starts.add(job):
                job.accept()

    def _start(self, job: Job) -> None:  # in the loop thread
        if self._lost:
            job.cancel(Stop.SHUTDOWN)
        job.start()

    def _terminate_job(self, job: Job) -> None:
        lane = self._lane(job)
        if job in lane.running:
            self._loop.call(job.cancel, Stop.TERMINATED)
        else:
            with suppress(ValueError):
                lane.waiting.remove(job)
            job.settle_terminated()

    def _report(self, job: Job, stop: Stop | None) -> None:  # in the loop thread
        self._reports.add((job, stop), 0.0 if stop is not None or self._closing else self._company(job))

    def _company(self, job: Job) -> float:
        lane = self._lane(job)
        scarce = len(lane.running) > lane.limit * ROOMY
        return min(COMPANY, job.took() / PATIENCE) if scarce else COMPANY

    def _look(self) -> None:  # before each wait of the hub
        timers = len(self._hub.timer)
        if self._reports.handle_waiting() and (self._hub._ready or len(self._hub.timer) > timers):
            self._reports.wake.set()  # the wait that follows is too long for what came of it

    def _handle_reports(self) -> None:
        self._reports.handle()

    def _handle(self, report: Report) -> None:
        job, stop = report
        if stop is not None:
            return job.limit_reached(stop)
        lane = self._lane(job)
        lane.running.discard(job)
        self._executed += 1
        try:
            job.settle()
        finally:
            self._pump(lane)

    # -- the end --

    def _on_asked_to_stop(self, **_: object) -> None:  # in a signal handler
        self._closing = True
        self._drain.asked()
        self._reports.wake.set()  # the hub looks up at once, and fetches nothing more

    async def _on_lifespan_lost(self) -> None:  # in the loop thread
        log.critical("worker_lost_its_lifespan")
        self._lost = self._closing = True
        state.should_stop = EX_FAILURE  # type: ignore[assignment]
        self._reports.wake.set()
        jobs = self._running()
        for job in jobs:
            job.cancel(Stop.SHUTDOWN)
        if runners := [job.runner for job in jobs if job.runner]:
            await asyncio.wait(runners, timeout=GRACE)

    def _shut_down(self) -> None:
        """Wait for what runs, or cancel it once the shutdown is cold; then close. A signal handler may nest this."""
        self.on_close()
        self._starts.tell()  # a handler may have interrupted a delivery
        deadline: float | None = None
        while self._running() and not self._closed:
            if deadline is None and (self._lost or state.should_terminate or self._drain.overdue()):
                deadline = time.monotonic() + GRACE
                for job in self._running():
                    self._loop.call(job.cancel, Stop.SHUTDOWN)
            if deadline is not None and time.monotonic() >= deadline:
                break
            self._reports.wake.wait(0.2)
            self._handle_reports()
            self._keep_hub_alive()
        if self._closed:
            return
        if abandoned := self._running():
            log.error("tasks_abandoned", tasks=[job.names["task_id"] for job in abandoned][:100], count=len(abandoned))
        self._loop.stop()
        self._closed = True

    def _running(self) -> list[Job]:
        return [*self._coroutines.running, *self._functions.running]

    def _keep_hub_alive(self) -> None:
        """Acknowledge what ended and fire Celery's timers, which the hub does no more during a long warm shutdown."""
        in_handler = celery_log._in_sighandler  # type: ignore[attr-defined]
        if self._hub is not None and not in_handler:  # the handler may have interrupted the hub itself
            self._hub.fire_timers()
            _run_ready_callbacks(self._hub)
