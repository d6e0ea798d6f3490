"""Celery's consumer, which comes back soon after the broker does.

Celery's own waits 2, 4, 6 … 30 seconds between attempts to reconnect: after a minute without Redis it may sleep half a
minute longer. Ours asks each second. What runs meanwhile goes on; what was delivered and not acknowledged may be
delivered again, and the claim in Postgres decides.
"""

from functools import partial

from celery.worker.consumer import Consumer as CeleryConsumer

from orchestrator.foreign import Json

FIRST = 0.25
LONGEST = 1.0
"""Seconds between attempts to reconnect."""


class Consumer(CeleryConsumer):
    """What a worker process hears tasks with."""

    def ensure_connected(self, conn: Json) -> Json:
        """Return the connection once the broker is there, however long that takes."""
        pauses = {"interval_start": FIRST, "interval_step": FIRST, "interval_max": LONGEST}
        conn.ensure_connection = partial(conn.ensure_connection, **pauses)
        return super().ensure_connected(conn)
