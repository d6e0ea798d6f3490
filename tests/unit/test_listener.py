"""Which deltas take the short way to a client, and that none overtakes what goes the long way."""

import asyncio

import pytest

from orchestrator.events import frames
from orchestrator.events import listener as listeners
from orchestrator.events.frames import START, Track
from orchestrator.events.listener import PING, Listener


class Paper:
    """An outlet on which everything is written down."""

    def __init__(self) -> None:
        self.open = True
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send whole frames."""
        self.written.append(data)


@pytest.fixture
def track() -> Track:
    return Track("run_1", 1)


@pytest.fixture
def paper() -> Paper:
    return Paper()


async def begun(track: Track, paper: Paper) -> Listener:
    """A listener that has heard a run begin, and how its relay asks for more."""
    listener = Listener(START, None, 60.0, paper)
    listener.hear(track.frame("thread.run.in_progress", b"{}").data)
    assert await listener.next()
    return listener


def delta(track: Track, text: str) -> bytes:
    return track.frame("thread.message.delta", frames.message_delta("msg_1", text, first=False)).data


async def asks(listener: Listener) -> "asyncio.Task[bytes]":
    """A relay that waits for what comes next."""
    task = asyncio.create_task(listener.next())
    await asyncio.sleep(0)
    return task


async def test_deltas_are_written_at_once_while_their_relay_waits_for_more(track: Track, paper: Paper) -> None:
    listener = await begun(track, paper)
    told = [delta(track, text) for text in ("One", " two")]
    end = track.frame("thread.run.completed", b"{}").data
    relay = await asks(listener)
    for batch in (*told, end):
        listener.hear(batch)

    assert paper.written == told
    assert await relay == end
    assert await listener.next() == b""
    assert listener.ended
    listener.close()


async def test_a_delta_waits_while_there_is_something_to_relay_before_it(track: Track, paper: Paper) -> None:
    listener = await begun(track, paper)
    first, second = delta(track, "One"), delta(track, " two")
    listener.hear(first)
    listener.hear(second)
    assert await listener.next() == first + second

    relay = await asks(listener)
    opened = track.frame("thread.message.in_progress", b"{}").data
    third, fourth = delta(track, " three"), delta(track, " four")
    for batch in (opened, third):
        listener.hear(batch)
    assert await relay == opened
    listener.hear(fourth)

    assert await listener.next() == third + fourth
    assert paper.written == []
    listener.close()


async def test_a_delta_waits_for_a_client_that_takes_nothing(track: Track, paper: Paper) -> None:
    listener = await begun(track, paper)
    first, second, third = (delta(track, text) for text in ("One", " two", " three"))
    relay = await asks(listener)
    listener.hear(first)
    paper.open = False
    listener.hear(second)
    paper.open = True
    listener.hear(third)

    assert paper.written == [first]
    assert await relay == second + third
    listener.close()


async def test_nothing_is_written_behind_a_missing_delta(track: Track, paper: Paper) -> None:
    listener = await begun(track, paper)
    relay = await asks(listener)
    delta(track, "lost")
    listener.hear(delta(track, " more"))

    assert await relay == b""  # the stream is to be read again
    assert paper.written == []
    listener.close()


async def test_comments_come_while_what_is_missing_does_not(
    track: Track, paper: Paper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "SETTLED", 0.01)
    listener = Listener(START, None, 0.05, paper)
    listener.hear(track.frame("thread.run.in_progress", b"{}").data)
    assert await listener.next()
    delta(track, "lost with its worker")
    listener.hear(delta(track, " more"))
    heard: list[bytes] = []

    async with asyncio.timeout(60):
        while heard.count(PING) < 2:
            heard.append(await listener.next())
            listener.forget()  # the stream is read again, and has nothing more

    assert set(heard) == {b"", PING}
    listener.close()
