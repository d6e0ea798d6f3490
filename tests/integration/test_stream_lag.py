"""Listeners who begin, or come back, in the middle of a text, while the stream is behind what is told."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from orchestrator import ids
from orchestrator.background import background
from orchestrator.events import frames
from orchestrator.events.follower import Follower
from orchestrator.events.frames import START, Cursor, Frame, Track
from orchestrator.events.listener import PING
from orchestrator.events.publisher import Publisher, stream_key
from orchestrator.events.tails import LAG
from orchestrator.resources import Resources
from tests.integration.scene import all_sent
from tests.integration.test_events import DEADLINE, follower, hear, nothing, tell

WORDS = 150


def begun(run_id: str, attempt: int = 1) -> tuple[Track, Frame]:
    """The track of an attempt, and its first frame."""
    track = Track(run_id, attempt)
    return track, track.frame("thread.run.in_progress", b"{}")


async def say(bare: Resources, track: Track, words: int = 1) -> list[Frame]:
    """Tell deltas as a worker does, and return once they are sent."""
    told = track.texts("msg_1", ["word "] * words, first=False)
    bare.database.publisher.frames(told)
    await all_sent(bare)
    return told


async def kept(bare: Resources, run_id: str) -> list[Cursor]:
    """What the stream has."""
    entries: Any = await bare.redis.xrange(stream_key(run_id))
    return [cursor for _, fields in entries for cursor, _ in frames.split(fields[b"f"])]


async def behind(bare: Resources, track: Track) -> list[Frame]:
    """Tell deltas, the last of which the stream does not have."""
    told: list[Frame] = []
    async with asyncio.timeout(DEADLINE):
        while True:
            told += await say(bare, track)
            if (await kept(bare, track.run_id))[-1] < told[-1].cursor:
                return told


async def hear_up_to(last: Cursor, stream: AsyncGenerator[bytes, None]) -> list[Cursor]:
    """The cursors of what is heard up to one of them; then the listener leaves."""
    heard: list[Cursor] = []
    async with asyncio.timeout(DEADLINE), aclosing(stream):
        while last not in heard:
            if (batch := await anext(stream)) != PING:
                heard += [cursor for cursor, _ in frames.split(batch)]
    return heard


async def said(told: Any, frame: Frame) -> None:
    """Return when a frame was published."""
    heard: list[Cursor] = []
    async with asyncio.timeout(DEADLINE):
        while frame.cursor not in heard:
            if (message := await told.get_message(ignore_subscribe_messages=True, timeout=DEADLINE)) is not None:
                heard += [cursor for cursor, _ in frames.split(message["data"])]


async def test_whoever_comes_while_words_flow_hears_each_of_them_once(bare: Resources) -> None:
    track, first = begun(ids.new("run_"))
    chance = random.Random(1)
    told = [first]
    listening: list[tuple[Cursor, asyncio.Task[list[Cursor]]]] = []
    await tell(bare, first)
    for _ in range(WORDS):
        told += await say(bare, track, chance.choice((1, 1, 1, 2)))
        if chance.random() < 0.3:
            after = chance.choice((START, told[-1].cursor, chance.choice(told).cursor))
            listening.append((after, asyncio.create_task(hear(follower(bare).follow(track.run_id, after)))))
        await asyncio.sleep(0.01)
    end = track.frame("thread.run.completed", b"{}")
    await tell(bare, end)

    for after, heard in listening:
        assert await heard == [frame.cursor for frame in (*told, end) if frame.cursor > after]


async def test_a_word_that_was_told_before_somebody_came_is_heard_although_nothing_follows(bare: Resources) -> None:
    track, first = begun(ids.new("run_"))
    await tell(bare, first)
    told = [first, *await behind(bare, track)]

    for after in (START, told[-2].cursor):
        expected = [frame.cursor for frame in told if frame.cursor > after]
        stream = follower(bare, silence=2 * DEADLINE).follow(track.run_id, after)
        assert await hear_up_to(told[-1].cursor, stream) == expected


async def test_who_has_heard_more_than_the_stream_has_goes_on_behind_that(bare: Resources) -> None:
    track, first = begun(ids.new("run_"))
    await tell(bare, first)
    told = await behind(bare, track)
    listening = asyncio.create_task(hear(follower(bare).follow(track.run_id, told[-1].cursor)))

    more = [*await say(bare, track), track.frame("thread.run.completed", b"{}")]
    await tell(bare, more[-1])

    assert await listening == [frame.cursor for frame in more]


@asynccontextmanager
async def mortal(bare: Resources) -> AsyncIterator[Publisher]:
    """A publisher that is killed at the end of the block."""
    publisher = Publisher(bare.redis, bare.settings)
    async with background(publisher._run(), "mortal"):
        yield publisher
    if publisher._reminder is not None:
        publisher._reminder.cancel()
    await publisher._line.close()


async def test_what_waited_in_a_killed_worker_is_known_to_those_who_heard_it_and_all_hear_what_follows(
    bare: Resources,
) -> None:
    track, first = begun(ids.new("run_"))
    await tell(bare, first)
    witness = Follower(bare.subscriber, nothing, bare.settings).follow(track.run_id, START)
    heard = [cursor for cursor, _ in frames.split(await anext(witness))]
    async with mortal(bare) as publisher, asyncio.timeout(DEADLINE):
        told = [first]
        while len(heard) < 5:
            told += track.texts("msg_1", ["word "], first=False)
            publisher.frames(told[-1:])
            heard += [cursor for cursor, _ in frames.split(await anext(witness))]
    known = await kept(bare, track.run_id)
    listening = [
        asyncio.create_task(hear_up_to(Cursor(2, 2), follower(bare).follow(track.run_id, after)))
        for after in (START, heard[-1])
    ]

    next_, taken_over = begun(track.run_id, 2)
    new = [taken_over, next_.frame("thread.run.step.created", b'{"id":"step_2"}')]
    await tell(bare, *new)

    late, again = [await one for one in listening]
    assert heard == [frame.cursor for frame in told]
    assert known == heard[: len(known)]
    assert again == [frame.cursor for frame in new]
    assert await hear_up_to(Cursor(2, 2), witness) == again
    assert late == [*known, *again]


async def test_a_process_that_ends_leaves_nothing_behind_that_it_has_told(bare: Resources) -> None:
    track, first = begun(ids.new("run_"))
    told = [first]
    async with Publisher(bare.redis, bare.settings).running() as publisher:
        publisher.frame(first)
        for _ in range(3):
            told += track.texts("msg_1", ["word "], first=False)
            publisher.frames(told[-1:])
            await publisher.flush()

    assert await kept(bare, track.run_id) == [frame.cursor for frame in told]


async def test_the_stream_catches_up_by_itself(bare: Resources) -> None:
    track, first = begun(ids.new("run_"))
    await tell(bare, first)
    told = await behind(bare, track)

    async with asyncio.timeout(DEADLINE):
        while await kept(bare, track.run_id) != [first.cursor, *(frame.cursor for frame in told)]:  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(LAG / 5)


async def test_a_first_word_does_not_wait_behind_its_announcement(bare: Resources) -> None:
    track, first = begun(ids.new("run_"))
    waits_long = bare.settings.model_copy(update={"event_window": 60.0})
    told = bare.redis.pubsub()
    await told.subscribe(stream_key(track.run_id))
    async with Publisher(bare.redis, waits_long).running() as publisher:
        publisher.events([first])  # in haste, and alone: nothing was sent for long
        await said(told, first)

        publisher.first_word(word := track.texts("msg_1", ["Hello"], first=True))
        async with asyncio.timeout(waits_long.event_window / 2):
            await said(told, word[0])
    await told.aclose()  # type: ignore[no-untyped-call]
