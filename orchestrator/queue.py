"""Put tasks into Celery's queue by name, from asyncio, without importing a worker.

A message is what Celery's own builder makes, in the envelope that kombu's Redis transport would push; a test compares
the two. Building it is separate from sending it, so that it can travel in one pipeline with other commands:

    key, body = queue.message("runs.execute", run.id)
    pipeline.lpush(key, body)

The broker may lose or repeat any message: whatever a task is to do is a row in Postgres first.
"""

import base64
from uuid import uuid4

import orjson
from celery import Celery

from orchestrator.foreign import Json

QUEUE = "assistantd"  # not Celery's default name: the server may be shared with another Celery application
ORIGIN = "assistantd"  # who sent it, for people; Celery would say process id and host, which nobody needs here

_builder = Celery("assistantd-producer", set_as_current=False, broker="memory://").amqp


def message(task: str, *args: Json) -> tuple[str, bytes]:
    """The list and the bytes to LPUSH to it. `args` must be JSON. No I/O."""
    built = _builder.as_task_v2(
        str(uuid4()), task, args=args, origin=ORIGIN, ignore_result=True, argsrepr=repr(args), kwargsrepr="{}"
    )
    properties = {
        **built.properties,
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": QUEUE},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": str(uuid4()),
    }
    envelope = {
        "body": base64.b64encode(orjson.dumps(built.body)).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": built.headers,
        "properties": properties,
    }
    return QUEUE, orjson.dumps(envelope)
