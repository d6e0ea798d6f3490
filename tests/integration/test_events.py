"""Events over a real broker: each frame once and in order, whatever is lost on the way."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from orchestrator import ids
from orchestrator.events import frames
from orchestrator.events.follower import Follower
from orchestrator.events.frames import START, Cursor, Frame, Track
from orchestrator.events.heard import Heard
from orchestrator.events.listener import BUFFER, PING
from orchestrator.events.publisher import stream_key
from orchestrator.resources import Resources
from tests.integration.scene import all_sent

DEADLINE = 60.0


async def nothing(_run_id: str, _heard: Heard, _everything: bool) -> bytes | None:
    """The outcome of a run that moves."""
    return None


def follower(bare: Resources, *, silence: float = 15.0) -> Follower:
    return Follower(bare.subscriber, nothing, bare.settings.model_copy(update={"stream_ping": silence}))


def story(run_id: str, attempt: int = 1, deltas: int = 6) -> list[Frame]:
    """The frames of a short attempt, the last of which ends the run."""
    track = Track(run_id, attempt)
    told = [track.frame("thread.message.delta", b'{"n":%d}' % number) for number in range(deltas)]
    return [*told, track.frame("thread.run.completed", b"{}")]


async def tell(bare: Resources, *told: Frame) -> None:
    for frame in told:
        bare.database.publisher.frame(frame)
    await bare.database.publisher.flush()


async def hear(stream: AsyncGenerator[bytes, None]) -> list[Cursor]:
    """The cursors of everything that is heard to the end of the run."""
    async with asyncio.timeout(DEADLINE):
        return [cursor async for batch in stream if batch != PING for cursor, _ in frames.split(batch)]


@pytest.mark.parametrize("before", [0, 3, 7])
async def test_a_listener_hears_what_was_and_what_comes(bare: Resources, before: int) -> None:
    run_id = ids.new("run_")
    told = story(run_id)
    await tell(bare, *told[:before]) if before else None
    listening = asyncio.create_task(hear(follower(bare, silence=0.2).follow(run_id, START)))

    for frame in told[before:]:
        await tell(bare, frame)

    assert await listening == [frame.cursor for frame in told]


@pytest.mark.parametrize("seen", range(1, 7))
async def test_a_listener_that_comes_back_hears_the_rest_even_from_within_a_batch(bare: Resources, seen: int) -> None:
    run_id = ids.new("run_")
    told = story(run_id)
    await tell(bare, *told)

    assert await hear(follower(bare).follow(run_id, Cursor(1, seen))) == [frame.cursor for frame in told[seen:]]


async def test_a_message_that_pub_sub_lost_is_read_from_the_stream(bare: Resources) -> None:
    run_id = ids.new("run_")
    first, lost, *rest = story(run_id)
    await tell(bare, first)
    stream = follower(bare).follow(run_id, START)
    heard = [cursor for cursor, _ in frames.split(await anext(stream))]
    await bare.redis.xadd(stream_key(run_id), {"f": lost.data}, id=str(lost.cursor))
    await tell(bare, *rest)

    heard += await hear(stream)

    assert heard == [frame.cursor for frame in (first, lost, *rest)]


async def test_what_was_told_while_the_subscription_was_broken_is_read_once_it_stands_again(bare: Resources) -> None:
    run_id = ids.new("run_")
    first, *missed = story(run_id)
    await tell(bare, first)
    stream = follower(bare, silence=DEADLINE * 2).follow(run_id, START)
    heard = [cursor for cursor, _ in frames.split(await anext(stream))]
    rest = asyncio.create_task(hear(stream))

    async with bare.redis.pipeline(transaction=True) as pipe:
        pipe.client_kill_filter(_type="pubsub")
        for frame in missed:
            pipe.xadd(stream_key(run_id), {"f": frame.data}, id=str(frame.cursor))
        await pipe.execute()

    assert heard + await rest == [frame.cursor for frame in (first, *missed)]


async def test_a_callback_that_fails_does_not_end_the_listening_of_others(bare: Resources) -> None:
    heard: asyncio.Queue[bytes | None] = asyncio.Queue()

    def fail(_message: bytes | None) -> None:
        raise ValueError("a callback's own trouble")

    async with bare.subscriber.listening("good", heard.put_nowait), bare.subscriber.listening("bad", fail):
        await bare.redis.publish("bad", b"x")
        await bare.redis.publish("good", b"y")

        async with asyncio.timeout(DEADLINE):
            while await heard.get() != b"y":
                await bare.redis.publish("good", b"y")


async def test_what_cannot_be_sent_does_not_end_the_sending(bare: Resources) -> None:
    told = story(ids.new("run_"))
    bare.database.publisher.signal("nobody", "\ud800")  # no UTF-8

    async with asyncio.timeout(DEADLINE):
        await bare.database.publisher.flush()
        await tell(bare, *told)

    assert await hear(follower(bare).follow(told[0].run_id, START)) == [frame.cursor for frame in told]


async def test_a_stream_that_redis_lost_meanwhile_is_forgotten_in_the_end(bare: Resources) -> None:
    run_id = ids.new("run_")
    first, *rest = story(run_id)
    await tell(bare, first)
    await bare.redis.delete(stream_key(run_id))

    await tell(bare, *rest)
    await all_sent(bare)

    assert await bare.redis.ttl(stream_key(run_id)) > 0


async def test_a_listener_that_does_not_read_loses_nothing_and_holds_a_bounded_buffer(bare: Resources) -> None:
    run_id = ids.new("run_")
    told = story(run_id, deltas=BUFFER + 200)
    await tell(bare, told[0])
    stream = follower(bare).follow(run_id, START)
    heard = [cursor for cursor, _ in frames.split(await anext(stream))]
    for frame in told[1:]:
        await tell(bare, frame)

    heard += await hear(stream)

    assert heard == [frame.cursor for frame in told]


async def test_an_older_attempt_cannot_speak_any_more(bare: Resources) -> None:
    run_id = ids.new("run_")
    await tell(bare, story(run_id, attempt=2)[0])
    await tell(bare, *story(run_id, attempt=1))
    await tell(bare, *story(run_id, attempt=2)[1:])

    heard = await hear(follower(bare).follow(run_id, START))

    assert {cursor.attempt for cursor in heard} == {2}


async def test_a_silent_stream_carries_comments(bare: Resources) -> None:
    run_id = ids.new("run_")
    told = story(run_id)
    await tell(bare, told[0])
    stream = follower(bare, silence=0.05).follow(run_id, START)
    await anext(stream)

    assert await anext(stream) == PING
    await tell(bare, *told[1:])
    assert (await hear(stream))[-1] == told[-1].cursor


async def test_the_outcome_closes_a_stream_that_redis_forgot(bare: Resources) -> None:
    closing = b"event: thread.run.completed\ndata: {}\n\n"

    async def over(_run_id: str, _heard: Heard, _everything: bool) -> bytes | None:
        return closing

    forgetful = Follower(bare.subscriber, over, bare.settings)

    assert [batch async for batch in forgetful.follow(ids.new("run_"), START)] == [closing]
