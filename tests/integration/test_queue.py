"""What we put into the queue, next to what a stock Celery application puts there."""

import base64
import json
from typing import Any, cast

from celery import Celery
from redis.asyncio import Redis

from orchestrator.queue import QUEUE, message

OURS_TO_CHOOSE = {"id", "root_id", "correlation_id", "delivery_tag", "origin", "reply_to", "body"}


async def pop(redis: "Redis") -> dict[str, Any]:
    message = cast("bytes", await redis.rpop(QUEUE))
    return cast("dict[str, Any]", json.loads(message))


def fixed(part: dict[str, Any]) -> dict[str, Any]:
    return {
        name: fixed(value) if isinstance(value, dict) else None if name in OURS_TO_CHOOSE else value
        for name, value in part.items()
    }


async def test_our_envelope_is_the_one_that_celery_sends(url: str) -> None:
    stock = Celery("stock", broker=url, set_as_current=False)
    stock.conf.update(task_default_queue=QUEUE)
    async with Redis.from_url(url) as redis:
        stock.send_task("runs.execute", args=("run_1", {"größe": 1}), ignore_result=True)
        theirs = await pop(redis)
        await redis.lpush(*message("runs.execute", "run_1", {"größe": 1}))
        ours = await pop(redis)

    assert fixed(ours) == fixed(theirs)
    assert json.loads(base64.b64decode(ours["body"])) == json.loads(base64.b64decode(theirs["body"]))
    stock.close()
