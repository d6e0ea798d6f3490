"""Looks at a broker that the operator runs, before anything is started that would wait for it in vain."""

from orchestrator.addresses import UNREADABLE, is_readable, told
from orchestrator.embedded.process import EmbeddedError

TIMEOUT = 5.0


def probe_broker(redis_url: str) -> None:
    """Ask the broker for a sign of life. Raises EmbeddedError with what to do."""
    # Here, since it takes long to import and is needed only when the broker is not ours.
    from redis import Redis, RedisError

    if not is_readable(redis_url):
        raise EmbeddedError(f"REDIS_URL {UNREADABLE}.")
    try:
        with Redis.from_url(redis_url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT) as redis:
            redis.ping()
    except (RedisError, OSError, ValueError) as error:
        why = told(error).rstrip(".")
        raise EmbeddedError(f"The broker (REDIS_URL) does not answer ({why}). Correct or unset REDIS_URL.") from error
