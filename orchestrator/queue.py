"""Put tasks into Celery's queue by name, from asyncio, without importing a worker.

A message is what Celery's own builder makes, in the envelope that kombu's Redis transport would push; a test compares
the two. Building it is separate from sending it, so that it can travel in one pipeline with other commands:

    key, body = queue.message("runs.execute", run.id)
    pipeline.lpush(key, body)

The broker may lose or repeat any message: whatever a task is to do is a row in Postgres first.
"""

import base64
from functools import cache
from uuid import uuid4

import orjson
from celery import Celery

from orchestrator.foreign import Json

QUEUE = "assistantd"  # not Celery's default name: the server may be shared with another Celery application
ORIGIN = "assistantd"  # who sent it, for people; Celery would say process id and host, which nobody needs here

_BODY = b'[%b,{},{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]'

_builder = Celery("assistantd-producer", set_as_current=False, broker="memory://").amqp


def message(task: str, *args: Json) -> tuple[str, bytes]:
    """The list and the bytes to LPUSH to it. `args` must be JSON. No I/O."""
    changing = {
        b"id": str(uuid4()).encode(),
        b"tag": str(uuid4()).encode(),
        b"args": orjson.dumps(repr(args)),
        b"body": base64.b64encode(_BODY % orjson.dumps(args)),
    }
    return QUEUE, _template(task, QUEUE) % changing


@cache
def _template(task: str, queue: str) -> bytes:
    """The messages of one task, but for what differs between them: Celery's builder is asked once."""
    built = _builder.as_task_v2(
        "%(id)b", task, args=(), origin=ORIGIN, ignore_result=True, argsrepr="%(args)b", kwargsrepr="{}"
    )
    if orjson.dumps(built.body) != _BODY % b"[]":
        raise RuntimeError("this release of Celery writes the bodies of messages otherwise")
    properties = {
        **built.properties,
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": queue},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": "%(tag)b",
    }
    envelope = {
        "body": "%(body)b",
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": built.headers,
        "properties": properties,
    }
    return orjson.dumps(envelope).replace(b'"%(args)b"', b"%(args)b")
