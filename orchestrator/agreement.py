"""Notices that API and workers go by different bounds: each would give places away that the other does not have.

Each process says in Redis what its kind goes by, and reads what has been said before. A deploy that changes bounds has
both for a moment, so a difference counts when it is seen twice in a row. It is said once, in the log; nothing follows
from it, for nobody can know who is right. What nobody says any more is forgotten soon: a kind that has left agrees.
"""

import asyncio
from dataclasses import asdict
from typing import Final, Literal, NoReturn

import orjson
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from orchestrator.bounds import Bounds
from orchestrator.foreign import Json

log = structlog.get_logger(__name__)

Kind = Literal["api", "worker"]

KEYS: Final[dict[Kind, str]] = {"api": "assistantd:bounds:api", "worker": "assistantd:bounds:worker"}
EVERY = 60.0
KEPT: Final = 180
"""Seconds for which what was said counts: three looks."""


async def keep_agreement(redis: Redis, kind: Kind, bounds: Bounds) -> NoReturn:
    """Compare every now and then, without an end; while Redis is away nobody knows."""
    differed, told = False, False
    while True:
        try:
            others = await compare(redis, kind, bounds)
        except (RedisError, OSError, TimeoutError) as error:
            log.debug("bounds_not_compared", error=repr(error))
        else:
            if others and differed and not told:
                log.warning("bounds_differ", ours=asdict(bounds), others=others)
            told = bool(others) and differed
            differed = bool(others)
        await asyncio.sleep(EVERY)


async def compare(redis: Redis, kind: Kind, bounds: Bounds) -> dict[str, str]:
    """Say what we go by; returns what has been said that is different, by kind of process."""
    ours = orjson.dumps(asdict(bounds))
    said: list[Json] = await redis.mget(list(KEYS.values()))
    await redis.set(KEYS[kind], ours, ex=KEPT)
    return {known: theirs.decode() for known, theirs in zip(KEYS, said, strict=True) if theirs not in (None, ours)}
