"""Redis is stopped, restarted empty, slow, unreachable, or takes no writes: no run is lost, and nothing needs a hand.

All processes of ours reach it through a proxy. With ASSISTANTD_STORM=long it stays away for a minute, not for moments.
"""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai.types.beta.threads import Message, Run
from redis import Redis

from orchestrator.embedded.valkey import Valkey
from tests import stack as stacks
from tests.fakes.proxy import Mode, Proxy
from tests.fakes.replies import Reply
from tests.stack import API_KEY, Stack

LONG = os.environ.get("ASSISTANTD_STORM") == "long"
AWAY = 60.0 if LONG else 0.0
"""Seconds that Redis stays away beyond what the test does meanwhile."""
DEADLINE = 60.0
WORDS = [f"word{number} " for number in range(12)]


@dataclass
class Place:
    """A stack, and the Redis that it can lose."""

    stack: Stack
    proxy: Proxy
    valkey: Valkey

    def empty(self) -> None:
        """Restart Redis with nothing in it."""
        self.valkey.stop()
        for kept in self.valkey.data_dir.glob("appendonly*"):
            shutil.rmtree(kept)
        self.valkey.start()

    def redis(self) -> "Redis":
        """A client of one's own, past the proxy."""
        return Redis.from_url(self.valkey.url)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One API process and one worker, for all tests here."""
    folder: Path = tmp_path_factory.mktemp("redis-lost")
    valkey = Valkey(folder / "lost")
    try:
        with Proxy.before(valkey.start()) as proxy, stacks.running(folder) as ours:
            ours.environment |= {
                "REDIS_URL": proxy.url,
                "ASSISTANTD_REDIS_TIMEOUT": "1.5",  # the tests wait for it
                "ASSISTANTD_STREAM_PING": "2",
            }
            ours.start_worker()
            ours.base_url = ours.start_api()
            yield Place(ours, proxy, valkey)
            sys.stdout.write(ours.logs())
    finally:
        valkey.stop()


@pytest_asyncio.fixture
async def client(place: Place) -> AsyncIterator[openai.AsyncOpenAI]:
    place.stack.model.reset()
    async with openai.AsyncOpenAI(base_url=place.stack.base_url, api_key=API_KEY, max_retries=0, timeout=60) as client:
        yield client
    place.proxy.set_mode("pass")


class Listener(openai.AsyncAssistantEventHandler):
    """An official client that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.deltas: list[str] = []
        self.talking = asyncio.Event()

    async def on_text_delta(self, delta: Any, snapshot: Any) -> None:
        self.deltas.append(delta.value)
        self.talking.set()


class Conversation:
    """A streamed run, and its listener."""

    def __init__(self, client: openai.AsyncOpenAI, thread_id: str, assistant_id: str) -> None:
        self.client = client
        self.thread_id = thread_id
        self.assistant_id = assistant_id
        self.listener = Listener()
        self.ended = asyncio.create_task(self._listen())

    async def _listen(self) -> tuple[Run, list[Message]]:
        manager = self.client.beta.threads.runs.stream(
            thread_id=self.thread_id, assistant_id=self.assistant_id, event_handler=self.listener
        )
        async with manager as stream:
            messages = await stream.get_final_messages()
            run = stream.current_run
        assert run is not None
        return run, messages

    async def talking(self) -> None:
        """Return when the first word was heard."""
        await asyncio.wait_for(self.listener.talking.wait(), DEADLINE)

    async def check(self) -> None:
        """The client was told the whole text, none of it twice, and that the run is completed."""
        run, messages = await asyncio.wait_for(self.ended, DEADLINE)

        assert run.status == "completed"
        assert [texts(message) for message in messages] == ["".join(WORDS)]
        assert "".join(self.listener.deltas) == "".join(WORDS)


def texts(message: Message) -> str:
    return "".join(part.text.value for part in message.content if part.type == "text")


async def converse(client: openai.AsyncOpenAI) -> Conversation:
    assistant = await client.beta.assistants.create(model="gpt-4o")
    thread = await client.beta.threads.create(messages=[{"role": "user", "content": "Talk"}])
    return Conversation(client, thread.id, assistant.id)


async def start(client: openai.AsyncOpenAI, assistant_id: str) -> tuple[Run, float]:
    """A run of a thread of its own, and how long the request for it took."""
    thread = await client.beta.threads.create(messages=[{"role": "user", "content": "Hi"}])
    begun = time.monotonic()
    run = await client.beta.threads.runs.create(thread_id=thread.id, assistant_id=assistant_id)
    return run, time.monotonic() - begun


async def completed(client: openai.AsyncOpenAI, run: Run) -> float:
    """Poll until the run is over; returns how long that took."""
    begun = time.monotonic()
    while (run := await client.beta.threads.runs.retrieve(run.id, thread_id=run.thread_id)).status != "completed":
        assert run.status in ("queued", "in_progress"), run
        assert time.monotonic() - begun < DEADLINE, run
        await asyncio.sleep(0.05)
    return time.monotonic() - begun


def report(what: str, **figures: float) -> None:
    told = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in figures.items())
    sys.stdout.write(f"{what}: {told}\n")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["refuse", "blackhole"])
async def test_runs_go_on_and_requests_are_answered_while_redis_cannot_be_reached(
    place: Place, client: openai.AsyncOpenAI, mode: Mode
) -> None:
    model = place.stack.model
    model.script(Reply.text("".join(WORDS)).held("away", after=3))
    before = await converse(client)
    await before.talking()

    place.proxy.set_mode(mode)
    asked = [await start(client, before.assistant_id) for _ in range(5)]
    model.release("away")
    await before.check()
    await asyncio.sleep(AWAY)
    late, last = await start(client, before.assistant_id)
    place.proxy.set_mode("pass")

    back = max([await completed(client, run) for run, _ in [*asked, (late, last)]])
    report(mode, first=asked[0][1], second=asked[1][1], last=last, back=back)


async def test_a_stream_goes_on_where_it_was_when_redis_comes_back_with_its_data(
    place: Place, client: openai.AsyncOpenAI
) -> None:
    place.stack.model.script(Reply.text("".join(WORDS)).held("stopped", after=3))
    stream = await converse(client)
    await stream.talking()

    place.valkey.stop()
    place.valkey.start()
    place.stack.model.release("stopped")

    await stream.check()


async def test_a_stream_ends_whole_when_redis_comes_back_empty(place: Place, client: openai.AsyncOpenAI) -> None:
    place.stack.model.script(Reply.text("".join(WORDS)).held("emptied", after=3))
    stream = await converse(client)
    await stream.talking()

    place.empty()
    place.stack.model.release("emptied")

    await stream.check()
    run, _ = await start(client, stream.assistant_id)
    report("emptied", back=await completed(client, run))


async def test_what_redis_could_not_tell_is_brought_by_postgres(place: Place, client: openai.AsyncOpenAI) -> None:
    place.stack.model.script(Reply.text("".join(WORDS)).held("torn", after=3))
    stream = await converse(client)
    await stream.talking()
    place.proxy.set_mode("refuse")
    place.stack.model.release("torn")
    (run,) = [run async for run in client.beta.threads.runs.list(stream.thread_id)]
    await completed(client, run)

    await stream.check()


async def test_everything_works_with_a_redis_that_is_slow(place: Place, client: openai.AsyncOpenAI) -> None:
    place.proxy.set_mode("delay", seconds=0.2)
    place.stack.model.script(Reply.text("".join(WORDS)))
    stream = await converse(client)

    await stream.check()
    run, took = await start(client, stream.assistant_id)
    report("slow", asked=took, done=await completed(client, run))


async def test_a_redis_that_takes_no_writes_is_as_good_as_away(place: Place, client: openai.AsyncOpenAI) -> None:
    place.stack.model.script(Reply.text("".join(WORDS)).held("full", after=3))
    stream = await converse(client)
    await stream.talking()
    with place.redis() as redis:
        redis.config_set("maxmemory", "1")
        place.stack.model.release("full")
        await stream.check()
        run, took = await start(client, stream.assistant_id)
        redis.config_set("maxmemory", "0")

    report("full", asked=took, back=await completed(client, run))
