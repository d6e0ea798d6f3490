"""The Celery application of the workers and of beat, configured from the process' settings.

    celery -A workers.app worker --without-gossip --without-mingle --without-heartbeat
    celery -A workers.app beat

The pool is `workers.pool:TaskPool` without further flags. Gossip and mingle are for workers that talk to each other;
ours do not, and mingle costs a second at start. SIGTERM hands unfinished runs to other workers within `shutdown_grace`
seconds, a second one at once (see `workers.drain`); SIGQUIT leaves no time for anything.

What must not be forgotten:

- Messages are acknowledged when their task has ended. One whose worker was killed comes back after the visibility
  timeout, which must exceed every task: what is merely slow would otherwise be handed out twice. So it is long, and
  housekeeping, not the broker, is what brings back the runs of a dead worker.
- Losing the connection to the broker makes it hand out again what is at work here. The claim in Postgres decides.
"""

import warnings
from typing import Any

from celery import Celery, signals

from orchestrator import logs
from orchestrator.queue import QUEUE
from orchestrator.settings import Settings, get_settings
from workers import broker, json_bodies
from workers.drain import GiveBack

VISIBILITY_TIMEOUT = 12 * 3600
SWEEP_INTERVAL = 60.0
ETA_ROOM = 1000  # retries and other tasks with a date that a worker holds beyond its concurrency


def configuration(settings: Settings) -> dict[str, Any]:
    """Celery's configuration for these settings."""
    return {
        "broker_url": settings.redis_url.get_secret_value(),
        "broker_channel_error_retry": True,  # a Redis that refuses a command may take it later
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # the supervisor ends us, the broker's absence does not
        "broker_transport_options": {
            "visibility_timeout": VISIBILITY_TIMEOUT,
            # Commands wait for their reply; the BRPOP that waits for work is polled and ends by itself each second.
            "socket_timeout": max(settings.redis_timeout, 2.0),
            "socket_connect_timeout": settings.redis_timeout,
            "socket_keepalive": True,
            "health_check_interval": 5,  # a connection that died without a word is noticed within 11 s
        },
        "task_default_queue": QUEUE,
        "task_ignore_result": True,
        "task_acks_late": True,
        "task_serializer": "json",
        "accept_content": ["json"],
        "include": ["workers.runs", "workers.housekeeping", "workers.webhooks"],
        "worker_pool": "workers.pool:TaskPool",
        "worker_consumer": "workers.consumer:Consumer",
        "worker_concurrency": settings.run_concurrency,
        "worker_prefetch_multiplier": 1,
        "worker_eta_task_limit": settings.run_concurrency + ETA_ROOM,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "beat_scheduler": "celery.beat:Scheduler",  # remembers nothing, so it needs no file
        "beat_schedule": {
            "sweep": {
                "task": "housekeeping.sweep",
                "schedule": SWEEP_INTERVAL,
                "options": {"expires": SWEEP_INTERVAL},  # else they pile up while no worker runs
            }
        },
    }


# Root is a danger to workers that unpickle messages; ours read JSON only, and a container's only user may well be root.
warnings.filterwarnings("ignore", message=r"\s*You're running the worker with superuser privileges")

json_bodies.install()
if get_settings().broker_batches:
    broker.install()
app = Celery("assistantd")
app.conf.update(configuration(get_settings()))
app.steps["consumer"].add(GiveBack)


@signals.setup_logging.connect
def configure_logs(**_: object) -> None:
    """Keep Celery from setting up logs of its own."""
    logs.configure(get_settings())
