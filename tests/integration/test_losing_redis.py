"""What each part of a process does while Redis is away, silent, or another than it was."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import sqlalchemy as sa
from pydantic import SecretStr
from redis.asyncio import Redis
from sqlmodel import col

from orchestrator import assistants, broker, db, ids, marker, resources, threads
from orchestrator.background import background
from orchestrator.db import Database
from orchestrator.embedded.valkey import Valkey
from orchestrator.events import frames
from orchestrator.events.follower import Follower
from orchestrator.events.frames import START, Cursor
from orchestrator.events.heard import Heard
from orchestrator.events.listener import PING
from orchestrator.events.publisher import stream_key
from orchestrator.events.subscriber import Subscriber
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.tables import Run
from orchestrator.wire.requests import CreateAssistant
from tests.fakes.proxy import Mode, Proxy
from tests.integration.scene import Scene
from tests.integration.test_events import DEADLINE, follower, hear, story, tell

CLOSING = b"event: thread.run.completed\ndata: {}\n\n"


@pytest.fixture
def proxy(bare_settings: Settings) -> Iterator[Proxy]:
    """What stands between `far` and Redis."""
    with Proxy.before(bare_settings.redis_url.get_secret_value()) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def far(bare_settings: Settings, proxy: Proxy) -> AsyncIterator[Resources]:
    """A process that can lose Redis."""
    changes = {"redis_url": SecretStr(proxy.url), "redis_timeout": 1.0}
    async with resources.opened(bare_settings.model_copy(update=changes)) as opened:
        yield opened
        proxy.set_mode("pass")


async def noticed(far: Resources) -> None:
    """Return when the publisher knows that Redis is away."""
    async with asyncio.timeout(DEADLINE):
        while not far.database.publisher.away:  # noqa: ASYNC110  # it notices by itself
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("mode", ["refuse", "blackhole"])
async def test_what_could_not_be_sent_is_sent_in_order_once_redis_is_back(
    bare: Resources, far: Resources, proxy: Proxy, mode: Mode
) -> None:
    run_id = ids.new("run_")
    first, second, *rest = story(run_id)
    queue = ids.new("run_")
    await tell(far, first)
    proxy.set_mode(mode)
    await tell(far, second)
    far.database.publisher.push(queue, b"wake")
    await noticed(far)
    await tell(far, *rest)

    proxy.set_mode("pass")

    assert await hear(follower(bare).follow(run_id, START)) == [frame.cursor for frame in (first, second, *rest)]
    async with asyncio.timeout(DEADLINE):
        assert await bare.redis.blpop([queue]) == [queue.encode(), b"wake"]


async def test_nobody_waits_for_a_redis_that_was_noticed_to_be_away(far: Resources, proxy: Proxy) -> None:
    proxy.set_mode("blackhole")
    await asyncio.wait_for(tell(far, *story(ids.new("run_"))), DEADLINE)

    async with asyncio.timeout(0):  # not even for a turn of the loop
        await far.database.publisher.flush()
    await noticed(far)
    async with asyncio.timeout(0):
        await far.database.publisher.flush()


async def test_a_connection_that_died_without_a_word_is_noticed_and_made_anew(
    bare: Resources, far: Resources, proxy: Proxy
) -> None:
    heard: asyncio.Queue[bytes | None] = asyncio.Queue()
    channel = ids.new("run_")
    async with far.subscriber.listening(channel, heard.put_nowait), asyncio.timeout(DEADLINE):
        proxy.set_mode("blackhole")

        assert await heard.get() is None  # something may have been missed

        proxy.cut()  # nobody would ever have heard of the old connection again
        proxy.set_mode("pass")
        told = asyncio.create_task(keep_telling(bare, channel))
        while await heard.get() != b"x":
            pass
        told.cancel()


async def keep_telling(bare: Resources, channel: str) -> None:
    while True:
        await bare.redis.publish(channel, b"x")
        await asyncio.sleep(0.05)


async def test_the_first_of_several_listeners_may_leave_while_it_subscribes(bare: Resources) -> None:
    settings = bare.settings.model_copy(update={"redis_timeout": 10 * DEADLINE})
    channel = ids.new("run_")

    async with Subscriber(bare.redis, settings).running() as subscriber:
        async with subscriber.listening("another", lambda _: None):  # it is connected
            pass

        async def listen() -> None:
            async with subscriber.listening(channel, lambda _: None):
                pass

        first, second = asyncio.create_task(listen()), asyncio.create_task(listen())
        await asyncio.sleep(0)
        first.cancel()

        await asyncio.wait_for(second, DEADLINE)


async def test_who_need_not_listen_at_once_is_not_kept_waiting(bare: Resources) -> None:
    heard: asyncio.Queue[bytes | None] = asyncio.Queue()
    deaf = Subscriber(bare.redis, bare.settings)

    async with deaf.listening("later", heard.put_nowait, at_once=False), deaf.running(), asyncio.timeout(DEADLINE):
        while await bare.redis.publish("later", b"x") == 0:  # noqa: ASYNC110  # it subscribes by itself
            await asyncio.sleep(0.01)

        assert await heard.get() == b"x"


class Told:
    """Outcomes of a run that rests; who asked, and for what."""

    def __init__(self) -> None:
        self.asked: list[tuple[Heard, bool]] = []

    async def outcome(self, _run_id: str, heard: Heard, everything: bool) -> bytes | None:
        self.asked.append((heard, everything))
        return CLOSING

    def follower(self, bare: Resources) -> Follower:
        return Follower(bare.subscriber, self.outcome, bare.settings)


async def test_nothing_is_relayed_behind_a_hole_and_postgres_closes_the_stream(bare: Resources) -> None:
    run_id = ids.new("run_")
    first, second, _lost, *rest = story(run_id)
    told = Told()
    await tell(bare, first)
    stream = told.follower(bare).follow(run_id, START)
    batches = [await anext(stream)]
    await tell(bare, second)
    await tell(bare, *rest)

    async with asyncio.timeout(DEADLINE):
        batches += [batch async for batch in stream if batch != PING]

    assert b"".join(batches) == first.data + second.data + CLOSING
    assert [everything for _, everything in told.asked] == [True]


async def test_who_comes_late_to_a_stream_whose_beginning_is_gone_hears_the_outcome(bare: Resources) -> None:
    run_id = ids.new("run_")
    told = Told()
    for frame in story(run_id):
        await tell(bare, frame)
    await bare.redis.xtrim(stream_key(run_id), maxlen=3, approximate=False)

    async with asyncio.timeout(DEADLINE):
        heard = [batch async for batch in told.follower(bare).follow(run_id, START)]

    assert heard == [CLOSING]
    assert [everything for _, everything in told.asked] == [True]


async def test_who_has_heard_the_end_is_told_no_more_than_the_outcome(bare: Resources) -> None:
    run_id = ids.new("run_")
    frames_ = story(run_id)
    told = Told()
    await tell(bare, *frames_)

    heard = [batch async for batch in told.follower(bare).follow(run_id, frames_[-1].cursor)]

    assert heard == [CLOSING]
    assert [everything for _, everything in told.asked] == [False]


async def test_a_live_stream_misses_nothing_when_redis_is_emptied_between_two_frames(bare: Resources) -> None:
    run_id = ids.new("run_")
    first, *rest = story(run_id)
    await tell(bare, first)
    stream = follower(bare).follow(run_id, START)
    heard = [cursor for cursor, _ in frames.split(await anext(stream))]
    await bare.redis.delete(stream_key(run_id))
    for frame in rest:
        await tell(bare, frame)

    assert heard + await hear(stream) == [Cursor(1, seq) for seq in range(1, 8)]


@pytest_asyncio.fixture
async def other(bare: Resources, tmp_path: Path) -> AsyncIterator[tuple[Valkey, Redis]]:
    """A Redis that can be restarted."""
    valkey = Valkey(tmp_path / "valkey")
    settings = bare.settings.model_copy(update={"redis_url": SecretStr(valkey.start())})
    redis = broker.connect(settings)
    yield valkey, redis
    await redis.aclose()
    valkey.stop()


async def on_a_new_thread(bare: Resources, project_id: str) -> Scene:
    """A scene whose thread and assistant are new."""
    async with bare.database.transaction() as session:
        assistant = await assistants.create(session, project_id, CreateAssistant(model="gpt-4o"))
        thread = await threads.create(session, project_id, None)
    return Scene(bare, project_id, thread.id, assistant.id)


async def test_what_waits_is_woken_when_redis_is_another_than_it_was(
    bare: Resources, project_id: str, other: tuple[Valkey, Redis]
) -> None:
    valkey, redis = other
    scene = await on_a_new_thread(bare, project_id)
    run = await scene.create()
    again = threading.Event()

    async def woken() -> bool:
        later = sa.func.now() + sa.text("interval '1 hour'")
        await scene.set_(run, wake_at=later)
        seen = await marker.look(bare.database, redis, again)
        async with bare.database.transaction() as session:
            due = sa.select(col(Run.wake_at) <= sa.func.now()).where(col(Run.id) == run.id)
            assert (await session.execute(due)).scalar_one() is (seen is not None)
        return seen is not None

    assert await woken()  # never seen before
    assert not await woken()
    await redis.flushall()
    assert await woken()  # emptied
    assert not await woken()
    valkey.stop()
    valkey.start()
    assert await woken()  # restarted
    assert not await woken()
    again.set()
    assert await woken()  # the broker's connection was lost
    assert not await woken()
    await scene.cancel(run)


async def test_who_keeps_the_marker_wakes_what_waits_when_redis_was_emptied_or_restarted(
    bare: Resources, project_id: str, other: tuple[Valkey, Redis]
) -> None:
    valkey, redis = other
    scene = await on_a_new_thread(bare, project_id)
    run = await scene.create()

    async def woken() -> None:
        due = sa.select(col(Run.wake_at) <= sa.func.now()).where(col(Run.id) == run.id)
        async with asyncio.timeout(60):
            while True:
                async with bare.database.transaction() as session:
                    if (await session.execute(due)).scalar_one():
                        return
                await asyncio.sleep(0.01)

    later = sa.func.now() + sa.text("interval '1 hour'")
    await scene.set_(run, wake_at=later)
    async with background(marker.keep_marker(bare.database, redis, 0.01, threading.Event()), "marker"):
        await woken()  # never seen before
        await scene.set_(run, wake_at=later)
        await redis.flushall()
        await woken()
        await scene.set_(run, wake_at=later)
        valkey.stop()
        valkey.start()
        await woken()
    await scene.cancel(run)


async def test_a_reconnection_is_not_forgotten_when_the_database_is_away_too(
    bare: Resources, bare_settings: Settings, other: tuple[Valkey, Redis], unused_tcp_port: int
) -> None:
    _, redis = other
    nowhere = SecretStr(f"postgresql://nobody:secret@127.0.0.1:{unused_tcp_port}/nothing")
    away = Database(db.engine(bare_settings.model_copy(update={"database_url": nowhere})), bare.database.publisher)
    again = threading.Event()
    await marker.look(bare.database, redis, again)
    again.set()

    with pytest.raises(OSError, match="onnect"):
        await marker.look(away, redis, again)
    await away.engine.dispose()

    assert again.is_set()
    assert await marker.look(bare.database, redis, again) is not None
    assert not again.is_set()
