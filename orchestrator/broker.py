"""Connections to the Redis-protocol server: the Celery queue's wake-ups and the event streams travel over it."""

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as ConnectionLost

from orchestrator.foreign import Json
from orchestrator.settings import Settings


def connect(settings: Settings, *, max_connections: int = 20) -> Redis:
    """A client with a bounded pool; every reply is waited for at most `settings.redis_timeout` seconds.

    Replies are bytes (RESP3 shapes). The caller closes it with `aclose()`.
    """
    pool = BlockingConnectionPool.from_url(
        settings.redis_url.get_secret_value(),
        max_connections=max_connections,
        timeout=settings.redis_timeout,
        socket_timeout=settings.redis_timeout,
        socket_connect_timeout=settings.redis_timeout,
        protocol=3,
        legacy_responses=False,
        health_check_interval=15,
        retry=Retry(ExponentialBackoff(cap=0.2, base=0.05), 1),  # the default of ten would hold a request for a minute
    )
    plain = pool.connection_class
    pool.connection_class = type(plain.__name__, (_Honest, plain), {})
    return Redis.from_pool(pool)


class _Honest(AbstractConnection):
    """A connection whose other end is lost says so, and nothing else.

    uvloop calls it a RuntimeError when something is written to it; so does asyncio when one request waits for an answer
    while another connects again; and the client library trips over the writer that it has just let go of. It would let
    all of that through, and neither connect again nor tell anybody what it is.
    """

    async def send_packed_command(self, command: Json, check_health: bool = True) -> None:
        try:
            await super().send_packed_command(command, check_health)
        except (RuntimeError, AttributeError) as error:
            raise ConnectionLost(str(error)) from error

    async def read_response(self, *how: Json, **named: Json) -> Json:
        try:
            return await super().read_response(*how, **named)
        except (RuntimeError, AttributeError) as error:
            raise ConnectionLost(str(error)) from error
