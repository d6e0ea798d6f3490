"""Notices that API and workers go by different bounds: each would give places away that the other does not have.

Each process says in Redis what its kind goes by, and reads what has been said before. What nobody says any more is
forgotten after a while, and a difference counts when it has been there for longer than that: a deploy has both bounds
for a moment, and a kind that has left, in order or not, may not be taken for one that differs. It is said once, in the
log; nothing follows from it, for nobody can know who is right.
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
KEPT: Final = 150
"""Seconds for which what was said counts: two looks, and half of one in which whoever says it again may be late."""
LOOKS: Final = 4
"""So many in a row make a difference: the first and the last are further apart than what is said is kept."""


async def keep_agreement(redis: Redis, kind: Kind, bounds: Bounds) -> NoReturn:
    """Compare every now and then, without an end; while Redis is away nobody knows."""
    seen = 0
    while True:
        try:
            others = await compare(redis, kind, bounds)
        except (RedisError, OSError, TimeoutError) as error:
            log.debug("bounds_not_compared", error=repr(error))
        else:
            seen = seen + 1 if others else 0
            if seen == LOOKS:
                log.warning("bounds_differ", ours=asdict(bounds), others=others)
        await asyncio.sleep(EVERY)


async def compare(redis: Redis, kind: Kind, bounds: Bounds) -> dict[str, str]:
    """Say what we go by; returns what has been said that is different, by kind of process."""
    ours = orjson.dumps(asdict(bounds))
    said: list[Json] = await redis.mget(list(KEYS.values()))
    await redis.set(KEYS[kind], ours, ex=KEPT)
    return {known: theirs.decode() for known, theirs in zip(KEYS, said, strict=True) if theirs not in (None, ours)}
