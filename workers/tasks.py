"""Celery tasks written as coroutine functions: how they are declared, and how their outcome reaches Celery's tracer.

The pool runs the coroutine first and Celery's tracer afterwards; the task's `run`, which the tracer calls, only replays
the finished outcome (returns the value or raises the exception). So retries, acknowledgements, signals and events are
Celery's own code. What follows from the order: `task_prerun` fires when the coroutine has ended, and a run time that
Celery logs or hands to `task_success` is the replay's (the `task-succeeded` event has the coroutine's).
"""

import logging
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Concatenate, Literal, NoReturn, ParamSpec, TypeAlias, TypeVar, overload

import celery
from celery import Celery, signals
from celery.app import trace

from orchestrator.foreign import Json

P = ParamSpec("P")
R = TypeVar("R")
Function: TypeAlias = Callable[..., Coroutine[Any, Any, Any]]

NOTHING_FOLLOWS = (
    b',{},{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]',
    b', {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]',
)
"""How a message's body ends, from us and from Celery, that asks for no other task to be called afterwards."""
HEARD = (signals.task_prerun, signals.task_success, signals.task_postrun)
HOOKS = ("before_start", "on_success", "after_return")

if TYPE_CHECKING:  # generic for the type checker only
    BaseTask = celery.Task[..., Any]
else:
    BaseTask = celery.Task


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a coroutine ended: with a value, or with an exception of any kind."""

    value: Json = None
    error: BaseException | None = None


class SelfCancelledError(Exception):
    """The coroutine ended in a CancelledError that the pool did not cause; for Celery an ordinary failure."""


class RetryError(Exception):
    """Leaves a coroutine through `Call.retry`; becomes `Task.retry` in the tracer, where publishing may block."""

    def __init__(self, options: dict[str, Json]) -> None:
        super().__init__("retry")
        self.options = options


@dataclass(frozen=True, slots=True)
class Call:
    """The first argument of a task declared with `bind=True`: what Celery knows about this delivery.

    It stands where Celery passes the task itself: `Task.request` belongs to a thread and cannot tell coroutines apart.
    """

    request: dict[str, Json]

    @property
    def id(self) -> str:
        """The task's id."""
        return str(self.request["id"])

    @property
    def retries(self) -> int:
        """How many times this task was retried before."""
        return int(self.request.get("retries") or 0)

    @property
    def redelivered(self) -> bool:
        """Whether the broker handed out this message before."""
        return bool((self.request.get("delivery_info") or {}).get("redelivered"))

    def retry(
        self, *, exc: Exception | None = None, countdown: float | None = None, max_retries: int | None = None
    ) -> NoReturn:
        """End this call now and have the task tried again, as `Task.retry` does (`raise call.retry(…)` reads well)."""
        options = {"exc": exc, "countdown": countdown, "max_retries": max_retries}
        raise RetryError({name: value for name, value in options.items() if value is not None}) from exc


class AsyncTask(BaseTask):
    """A task whose body is the coroutine function `function`; only `workers.pool.TaskPool` can run it."""

    abstract = True
    function: Function
    bound: bool

    def call(self, request: dict[str, Json]) -> Coroutine[Any, Any, Any]:
        """The coroutine for one delivery."""
        first = (Call(request),) if self.bound else ()
        return self.function(*first, *request["args"], **request["kwargs"])

    def is_plain(self, payload: tuple[Json, ...]) -> bool:
        """Whether Celery's tracer would do nothing on hearing that this delivery returned None."""
        request, body = payload[2], payload[3]
        ignored = request.get("ignore_result")
        return (
            bool(self.ignore_result if ignored is None else ignored)
            and isinstance(body, bytes)
            and body.endswith(NOTHING_FOLLOWS)
            and not any(signal.receivers for signal in HEARD)
            and not trace.logger.isEnabledFor(logging.INFO)
            and self._has_no_hooks
        )

    @cached_property
    def _has_no_hooks(self) -> bool:
        deduplicated = self.app.conf.worker_deduplicate_successful_tasks
        return not deduplicated and not any(trace.task_has_custom(self, hook) for hook in HOOKS)


class _Replay(threading.local):
    outcome: Outcome | None = None


_replay = _Replay()


def replay(outcome: Outcome, trace: Callable[..., Json], args: tuple[Json, ...]) -> Json:
    """Have Celery's tracer see `outcome` as the result of running the task. Raises what the tracer lets through."""
    previous, _replay.outcome = _replay.outcome, outcome  # a signal handler may nest one replay inside another
    try:
        return trace(*args)
    finally:
        _replay.outcome = previous


def _run(task: AsyncTask, *_args: Json, **_kwargs: Json) -> Json:
    outcome = _replay.outcome
    if outcome is None:
        raise RuntimeError(f"{task.name} is a coroutine: start the worker with the pool workers.pool:TaskPool")
    if isinstance(outcome.error, RetryError):
        raise task.retry(**outcome.error.options)
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


@overload
def async_task(
    app: Celery, *, name: str, bind: Literal[True], **options: Json
) -> Callable[[Callable[Concatenate[Call, P], Coroutine[Any, Any, R]]], "celery.Task[P, R]"]: ...
@overload
def async_task(
    app: Celery, *, name: str, bind: Literal[False] = False, **options: Json
) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], "celery.Task[P, R]"]: ...
def async_task(app: Celery, *, name: str, bind: bool = False, **options: Json) -> Callable[[Function], Json]:
    """Declare a coroutine function as the Celery task `name`. `options` are those of `app.task`.

    With `bind=True` the function gets a `Call` first. A limit or a stop arrives in the coroutine as CancelledError,
    whose argument says why. Outside, a soft time limit is a SoftTimeLimitExceeded (`autoretry_for` can name it), unless
    the coroutine returned all the same.
    """

    def declare(function: Function) -> Json:
        def run(task: AsyncTask, *args: Json, **kwargs: Json) -> Json:
            return _run(task, *args, **kwargs)

        run.__name__, run.__qualname__ = function.__name__, function.__qualname__
        run.__module__, run.__doc__ = function.__module__, function.__doc__
        return app.task(
            name=name,
            base=AsyncTask,
            bind=True,
            function=staticmethod(function),
            bound=bind,
            __header__=app.type_checker(function, bound=bind),  # callers' arguments are checked against the coroutine
            **options,
        )(run)

    return declare
