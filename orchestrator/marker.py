"""Notices that wake-ups may have been lost with Redis, or on their way from it, and wakes everything that waits.

A key in Redis says which server it was written on (`run_id`, which each start draws anew). If it is gone, Redis was
emptied; if it names another server, Redis was restarted, or another has taken its place, and what it got last may not
have been on disk. Either way what waits for a worker would wait until its wake-up is found unanswered; so it is woken
at once. The same is done when a worker had to connect again: Redis may have given a wake-up to a connection without
another end. Waking too often does no harm.
"""

import asyncio
import threading
from typing import NoReturn

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from orchestrator import orphans
from orchestrator.db import Database
from orchestrator.events.line import Shared, pack

log = structlog.get_logger(__name__)

KEY = "assistantd:marker"
GLANCE = pack("GET", KEY) + pack("INFO", "server")
UNNAMED = b"?"
"""A server that does not say who it is: only an empty one is noticed then."""
PATIENCE = 2.0
"""Longest wait for one look; the next comes soon."""


async def keep_marker(database: Database, redis: Redis, interval: float, reconnected: threading.Event) -> None:
    """Look every now and then, without an end; while Redis is known to be away there is nothing to see."""
    line = Shared(redis, PATIENCE)
    try:
        await _keep(database, redis, line, interval, reconnected)
    finally:
        await line.close()


async def _keep(
    database: Database, redis: Redis, line: Shared, interval: float, reconnected: threading.Event
) -> NoReturn:
    while True:
        await asyncio.sleep(interval)
        if database.publisher.away:
            continue
        try:
            async with asyncio.timeout(PATIENCE):
                if reconnected.is_set() or not await _same(line):
                    await look(database, redis, reconnected)
        except (RedisError, OSError, TimeoutError) as error:
            log.debug("marker_not_seen", error=repr(error))
        except Exception as error:  # the database's trouble, say: the next look tries again
            log.warning("marker_not_kept", error=repr(error))


async def look(database: Database, redis: Redis, reconnected: threading.Event) -> int | None:
    """Wake what waits if this is not the server that it was, or not its contents, or if we were `reconnected`. Returns
    how much waited, or None.
    """
    marker, server = await redis.get(KEY), await _server(redis)
    if marker == server and not reconnected.is_set():
        return None
    again = reconnected.is_set()
    reconnected.clear()  # one that comes from here on counts again
    try:
        async with database.transaction() as session:
            woken = await orphans.wake_again(session)
    except BaseException:
        if again:
            reconnected.set()  # nobody was woken: the next look must
        raise
    await redis.set(KEY, server)
    log.info("waiting_runs_woken", count=woken, emptied=marker is None, restarted=marker not in (None, server))
    return woken


async def _same(line: Shared) -> bool:
    """Whether the server is the one that the key names; not, if it does not say."""
    marker, server = await line.ask(GLANCE, 2)
    return isinstance(marker, bytes) and isinstance(server, bytes) and b"run_id:%b\r\n" % marker in server


async def _server(redis: Redis) -> bytes:
    try:
        return str((await redis.info("server"))["run_id"]).encode()
    except (ResponseError, KeyError):  # not every provider lets one ask
        return UNNAMED
