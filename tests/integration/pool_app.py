"""The Celery application that the worker of test_pool runs: small tasks that leave their traces in Redis.

The lifespan opens the Redis client that coroutines write with; `POOL_LIFESPAN` makes it fail in one way or another, or
write nothing at its start.
`POOL_BROKER=stock` has it use kombu's own transport.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import celery
import redis as blocking_redis
from celery import signals
from redis.asyncio import Redis

from workers import broker, json_bodies
from workers.drain import GiveBack
from workers.pool import Call, async_task, lifespan, mannered

URL = os.environ["REDIS_URL"]

json_bodies.install()
if os.environ.get("POOL_BROKER") != "stock":
    broker.install()
app = celery.Celery("pool-test")
app.conf.update(
    broker_url=URL,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 3600, "socket_timeout": 5, "client_name": os.environ["POOL_QUEUE"]},
    task_default_queue=os.environ["POOL_QUEUE"],
    broker_channel_error_retry=True,
    task_ignore_result=True,
    task_acks_late=True,
    worker_pool="workers.pool:TaskPool",
    worker_consumer="workers.consumer:Consumer",
    worker_prefetch_multiplier=1,
    worker_eta_task_limit=1000,
    worker_soft_shutdown_timeout=float(os.environ.get("POOL_SOFT_SHUTDOWN", "0")),
    worker_cancel_long_running_tasks_on_connection_loss=False,
)
app.steps["consumer"].add(GiveBack)

trace: "Redis"
told: dict[str, asyncio.Event] = {}


@lifespan
@asynccontextmanager
async def resources() -> AsyncIterator[None]:
    """Open the client that tasks use, and note when it was opened and closed."""
    global trace
    if os.environ.get("POOL_LIFESPAN") == "fails":
        raise ConnectionError("no database here")
    trace = Redis.from_url(URL, decode_responses=True, max_connections=300, socket_timeout=None)  # BLPOP waits longer
    if os.environ.get("POOL_LIFESPAN") != "silent":
        await trace.rpush("lifespan", "entered")
    dying = asyncio.create_task(_die(asyncio.current_task()))
    if grace := os.environ.get("POOL_GRACE"):
        told.update(soon=asyncio.Event(), now=asyncio.Event())
        mannered(lambda now: told["now" if now else "soon"].set(), float(grace))
    try:
        yield
    finally:
        dying.cancel()
        await trace.rpush("lifespan", "left")
        await trace.aclose()


async def _die(lifespan_task: "asyncio.Task[Any] | None") -> None:
    if os.environ.get("POOL_LIFESPAN") == "dies":
        await trace.blpop(["die"], timeout=0)
        assert lifespan_task
        lifespan_task.cancel()


async def _note(key: str, value: object) -> None:
    await trace.rpush(key, str(value))


@async_task(app, name="test.note")
async def note(key: str, value: str = "ran") -> None:
    """Leave a trace."""
    await _note(key, value)


@async_task(app, name="test.together")
async def together(key: str, seconds: float) -> None:
    """Count how many of us run at once."""
    await _note(f"{key}:peak", await trace.incr(f"{key}:now"))
    await asyncio.sleep(seconds)
    await trace.decr(f"{key}:now")
    await _note(f"{key}:done", 1)


@async_task(app, name="test.together_early", acks_late=False)
async def together_early(key: str, seconds: float) -> None:
    """The same, acknowledged before it runs."""
    await together.function(key, seconds)  # type: ignore[attr-defined]


@async_task(app, name="test.until_released", bind=True)
async def until_released(call: Call, key: str) -> None:
    """Run until the test says so; note a cancellation and its reason."""
    try:
        await _note(f"{key}:started", "again" if call.redelivered else "first")
        await trace.blpop([f"{key}:release"], timeout=60)
    except asyncio.CancelledError as cancelled:
        await _note(f"{key}:cancelled", cancelled.args[0])
        raise
    await _note(f"{key}:done", call.id)


@async_task(app, name="test.mannerly")
async def mannerly(key: str, when: str) -> None:
    """Run until told that the worker is to stop: `soon`, or `now`."""
    await _note(f"{key}:started", when)
    await told[when].wait()
    await _note(f"{key}:ended", when)


@async_task(app, name="test.stubborn", soft_time_limit=0.2, time_limit=0.5)
async def stubborn(key: str) -> None:
    """Take no notice of the first cancellation."""
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError as cancelled:
        await _note(key, cancelled.args[0])
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError as cancelled:
        await _note(key, cancelled.args[0])
        raise


@async_task(app, name="test.endless")
async def endless(key: str) -> None:
    """Take no notice of any cancellation, from the first moment on: whoever hears of the start may cancel at once."""
    noting = asyncio.ensure_future(_note(key, "started"))
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(30)
            await noting


@async_task(app, name="test.limited", soft_time_limit=0.2)
async def limited(key: str) -> None:
    """Outlive the soft limit."""
    await _note(key, "started")
    await asyncio.sleep(30)


@async_task(
    app, name="test.flaky", autoretry_for=(ValueError,), retry_backoff=False, default_retry_delay=0, max_retries=2
)
async def flaky(key: str) -> None:
    """Succeed at the third attempt."""
    if await trace.incr(f"{key}:attempts") < 3:
        raise ValueError("not yet")
    await _note(key, "done")


@async_task(app, name="test.retried", bind=True, max_retries=1)
async def retried(call: Call, key: str) -> None:
    """Ask for one more attempt than allowed."""
    await _note(key, call.retries)
    raise call.retry(countdown=0, exc=ValueError("still not"))


@async_task(app, name="test.fails")
async def fails(kind: str) -> None:
    """End in an exception."""
    if kind == "exit":
        raise SystemExit(3)
    if kind == "cancelled":
        raise asyncio.CancelledError
    if kind == "child":
        await asyncio.gather(asyncio.create_task(_exit()), asyncio.sleep(0.1))
    raise LookupError(kind)


async def _exit() -> None:
    raise SystemExit(4)


@app.task(name="test.sync")
def sync(key: str, seconds: float) -> None:
    """A plain function, in a thread."""
    with blocking_redis.Redis.from_url(URL) as client:
        client.rpush(f"{key}:peak", client.incr(f"{key}:now"))
        time.sleep(seconds)
        client.decr(f"{key}:now")
        client.rpush(f"{key}:done", 1)


@app.task(name="test.sync_fails")
def sync_fails() -> None:
    """A plain function that raises."""
    raise LookupError("sync")


@signals.task_failure.connect
def note_failure(sender: Any, exception: BaseException, task_id: str, **_: Any) -> None:
    """What Celery takes for a failure."""
    with blocking_redis.Redis.from_url(URL) as client:
        client.rpush(f"failure:{task_id}", type(exception).__name__)


@signals.task_revoked.connect
def note_revoke(request: Any, terminated: bool, expired: bool, **_: Any) -> None:
    """What Celery takes for a revoke."""
    with blocking_redis.Redis.from_url(URL) as client:
        client.rpush(f"revoked:{request.id}", "expired" if expired else "terminated" if terminated else "revoked")
