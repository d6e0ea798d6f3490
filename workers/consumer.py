"""Celery's consumer, which comes back soon after the broker does.

Celery's own waits 2, 4, 6 … 30 seconds between attempts to reconnect: after a minute without Redis it may sleep half a
minute longer. Ours asks each second. What runs meanwhile goes on; what was delivered and not acknowledged may be
delivered again, and the claim in Postgres decides. What was on its way to us may be lost: `reconnected` tells that.
"""

import threading
from collections.abc import Callable
from functools import partial

import structlog
from celery.worker import state
from celery.worker.consumer import Consumer as CeleryConsumer

from orchestrator.foreign import Json

log = structlog.get_logger(__name__)

reconnected = threading.Event()
"""Set, in Celery's thread, when the broker is there again; whoever sees to it clears it."""

FIRST = 0.25
LONGEST = 1.0
"""Seconds between attempts to reconnect."""


class Consumer(CeleryConsumer):
    """What a worker process hears tasks with."""

    def ensure_connected(self, conn: Json) -> Json:
        """Return the connection once the broker is there, however long that takes."""
        pauses = {"interval_start": FIRST, "interval_step": FIRST, "interval_max": LONGEST}
        conn.ensure_connection = partial(conn.ensure_connection, **pauses)
        before = not self.first_connection_attempt
        connected = super().ensure_connected(conn)
        if before:
            reconnected.set()
        return connected

    def call_soon_ack(self, p: Callable[..., Json], *args: Json, **kwargs: Json) -> Json:
        """Acknowledge or reject a message before the hub waits again: at once if that needs no word to the broker."""
        message: Json = getattr(p, "__self__", None)
        if getattr(p, "__name__", "") == "ack_log_error" and getattr(message.channel, "acknowledges_later", False):
            return p(*args, **kwargs)
        return super().call_soon_ack(p, *args, **kwargs)  # type: ignore[misc]  # its types are of an older release

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Let go of the connection. Nothing about it may end the worker.

        Closing it gives messages back, and later on what ended is acknowledged: both over a connection that is gone,
        for which kombu finds no address any more (AttributeError). So nothing of it is acknowledged; what comes again
        from it, hours later, does nothing.
        """
        for request in tuple(state.reserved_requests):
            request.acknowledged = True
        try:
            super().on_connection_error_after_connected(exc)
        except Exception as error:
            log.warning("broker_connection_not_closed", error=repr(error))
            self.connection = None
