"""Waiting for a run to rest when Redis forgets, breaks, or is away."""

import asyncio

import pytest
from redis.exceptions import RedisError

from orchestrator.events import frames, watcher
from orchestrator.events.publisher import stream_key
from orchestrator.events.subscriber import Subscriber
from orchestrator.events.watcher import Watcher
from orchestrator.resources import Resources
from orchestrator.settings import Settings

DEADLINE = 60.0


class Run:
    """A run of which only this is known."""

    def __init__(self) -> None:
        self.at_rest = False
        self.looked = 0

    async def look(self) -> bool:
        """Whether it is at rest."""
        self.looked += 1
        return self.at_rest


async def until(run: Run, looked: int) -> None:
    async with asyncio.timeout(DEADLINE):
        while run.looked < looked:  # noqa: ASYNC110  # it counts by itself
            await asyncio.sleep(0.005)


async def test_a_resting_event_has_the_run_looked_at_and_other_events_do_not(bare: Resources) -> None:
    run = Run()
    waiting = asyncio.create_task(Watcher(bare.subscriber).watch("run_1", 60, run.look))
    await until(run, 1)
    track = frames.Track("run_1", 1)

    await bare.redis.publish(stream_key("run_1"), track.frame("thread.run.in_progress", b"{}").data)
    run.at_rest = True
    await bare.redis.publish(stream_key("run_1"), track.frame("thread.run.completed", b"{}").data)
    await asyncio.wait_for(waiting, DEADLINE)

    assert run.looked == 2


async def test_a_run_is_looked_at_now_and_then_although_nothing_was_told(
    bare: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "RECHECK", 0.05)
    run = Run()
    waiting = asyncio.create_task(Watcher(bare.subscriber).watch("run_2", 60, run.look))
    await until(run, 2)

    run.at_rest = True

    await asyncio.wait_for(waiting, DEADLINE)


async def test_a_run_is_looked_at_when_the_connection_to_redis_was_lost(bare: Resources) -> None:
    run = Run()
    waiting = asyncio.create_task(Watcher(bare.subscriber).watch("run_3", 60, run.look))
    await until(run, 1)

    run.at_rest = True
    await bare.redis.client_kill_filter(_type="pubsub")

    await asyncio.wait_for(waiting, DEADLINE)


async def test_without_redis_a_run_is_looked_at_all_the_same(
    bare: Resources, bare_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "BLIND", 0.05)
    deaf = Subscriber(bare.redis, bare_settings.model_copy(update={"redis_timeout": 0.05}))  # it is not running
    run = Run()
    waiting = asyncio.create_task(Watcher(deaf).watch("run_4", 60, run.look))
    await until(run, 3)

    run.at_rest = True

    await asyncio.wait_for(waiting, DEADLINE)


async def test_what_looking_raises_is_raised(bare: Resources) -> None:
    async def look() -> bool:
        raise RedisError("of the caller")

    with pytest.raises(RedisError, match="of the caller"):
        await asyncio.wait_for(Watcher(bare.subscriber).watch("run_5", 60, look), DEADLINE)
