"""How a worker that is asked to stop comes to its end: nothing more is fetched, tasks are told, then they are cut.

    asked ──▶ tell(now=False) ──`within` seconds, or asked again──▶ tell(now=True) ──▶ what still runs is cancelled
      └────▶ GiveBack: what was fetched and has not begun goes back to the queue at once

Celery's own soft shutdown sleeps out its time inside a signal handler, whatever has ended meanwhile, and keeps what it
has fetched until then. So ours is a warm shutdown (SIGTERM as it is, without REMAP_SIGTERM) that has an end.
"""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty

import structlog
from celery import bootsteps
from celery.worker import state
from kombu.common import ignore_errors

from orchestrator.foreign import Json

GRACE = 5.0
"""Seconds that tasks get to clean up once they have been told that it must be now, or are cancelled."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Manners:
    """How this process' tasks are told to come to an end: `tell(now)` is called on their loop."""

    tell: Callable[[bool], None]
    within: float


class Drain:
    """The time that is left of one worker. `asked` and `overdue` belong to the hub thread, signal handlers included."""

    def __init__(self, manners: Manners | None, call: Callable[..., bool]) -> None:
        self._manners = manners
        self._call = call
        self._asked = 0
        self._deadline = math.inf

    def asked(self) -> None:
        """Begin; asked again, hurry. Where tasks have no manners, they are waited for until then."""
        self._asked += 1
        if self._asked > 2:
            return
        hurry, patience = self._asked == 2, GRACE if self._manners else 0.0
        if self._manners is not None:
            self._call(self._tell, self._manners, hurry)
            patience += 0 if hurry else self._manners.within
        if hurry or self._manners is not None:
            self._deadline = min(self._deadline, time.monotonic() + patience)

    def overdue(self) -> bool:
        """Whether what still runs is to be cancelled."""
        return time.monotonic() >= self._deadline

    def _tell(self, manners: Manners, now: bool) -> None:  # in the loop thread
        manners.tell(now)
        if not now:
            asyncio.get_running_loop().call_later(manners.within, manners.tell, True)


class GiveBack(bootsteps.StartStopStep):
    """A step of Celery's consumer: at a shutdown, what has not begun is given back first of all.

    A blocking read that is under way may bring one message more, which would otherwise lie unread in our socket until
    the process ends: it is waited for (a second at most), and the broker's library puts back what nobody consumes.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def stop(self, c: Json) -> None:
        """Called first when the consumer stops, which a lost connection makes it do, too."""
        stopping: Json = state.should_stop
        if stopping is None or not c.task_consumer:
            return
        ignore_errors(c, c.task_consumer.cancel)
        channel = c.task_consumer.channel
        if getattr(channel, "_in_poll", None):
            try:
                channel._brpop_read()
            except Empty:
                pass
            except c.connection_errors as error:
                log.warning("last_message_not_read", error=repr(error))
        for request in _fetched():
            if request not in state.active_requests:
                request.reject(requeue=True)


def _fetched() -> list[Json]:
    module: Json = state  # its types are those of an older release
    return [*module.reserved_requests, *module.scheduled_requests]
