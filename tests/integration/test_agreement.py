"""API and workers that go by different bounds are noticed, and those that agree are not."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import structlog
from pydantic import SecretStr
from redis.asyncio import Redis

from orchestrator import agreement, broker
from orchestrator.background import background
from orchestrator.bounds import Bounds
from orchestrator.settings import Settings

WIDE, NARROW = Bounds(), Bounds(project=7)


@pytest.fixture
async def redis(bare_settings: Settings, url: str) -> AsyncIterator[Redis]:
    """A broker to which nobody has said anything."""
    redis = broker.connect(bare_settings.model_copy(update={"redis_url": SecretStr(url)}))
    yield redis
    await redis.delete(*agreement.KEYS.values())
    await redis.aclose()


async def test_a_difference_is_seen_by_whoever_looks_and_gone_when_it_is_mended(redis: Redis) -> None:
    assert await agreement.compare(redis, "api", WIDE) == {}
    assert await agreement.compare(redis, "worker", WIDE) == {}
    assert set(await agreement.compare(redis, "worker", NARROW)) == {"api", "worker"}  # of what was said before
    assert set(await agreement.compare(redis, "api", WIDE)) == {"worker"}
    assert set(await agreement.compare(redis, "worker", WIDE)) == {"worker"}  # its former self
    assert await agreement.compare(redis, "api", WIDE) == {}


async def test_what_nobody_says_any_more_is_forgotten_whoever_else_lives(redis: Redis) -> None:
    await agreement.compare(redis, "worker", NARROW)
    await redis.expire(agreement.KEYS["worker"], 1000)
    await agreement.compare(redis, "api", WIDE)

    assert 0 < await redis.ttl(agreement.KEYS["api"]) <= agreement.KEPT
    assert await redis.ttl(agreement.KEYS["worker"]) > agreement.KEPT  # only its own kind speaks for it


async def test_what_was_said_by_a_kind_that_has_left_is_not_told(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = int(agreement.KEPT / agreement.EVERY) + 1  # so often it may still be there
    every, over = agreement.EVERY, asyncio.Event()

    async def remembered(*_: object) -> dict[str, str]:
        nonlocal looks
        looks -= 1
        if looks < 0:
            over.set()
        return {"api": "its bounds"} if looks >= 0 else {}

    monkeypatch.setattr(agreement, "EVERY", 0.001)
    monkeypatch.setattr(agreement, "compare", remembered)
    with structlog.testing.capture_logs() as logs:
        async with background(agreement.keep_agreement(redis, "worker", NARROW), "agreement"), asyncio.timeout(60):
            await over.wait()

    assert "bounds_differ" not in [line["event"] for line in logs]
    assert (agreement.LOOKS - 1) * every > agreement.KEPT > every


async def test_a_difference_that_stays_is_told_once(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "EVERY", 0.001)
    looks = asyncio.Semaphore(0)
    compare = agreement.compare

    async def counted(*_: object) -> dict[str, str]:
        looks.release()
        return await compare(redis, "worker", NARROW)

    monkeypatch.setattr(agreement, "compare", counted)
    await compare(redis, "api", WIDE)
    with structlog.testing.capture_logs() as logs:
        async with background(agreement.keep_agreement(redis, "worker", NARROW), "agreement"), asyncio.timeout(60):
            for _ in range(6):
                await looks.acquire()

    assert [line["event"] for line in logs].count("bounds_differ") == 1
