"""A light load: clients that hold one streamed conversation after the other, and come back when a stream breaks off.

The official client does the talking; what it leaves to its user, resuming, is done as docs/examples/resuming.py does.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
from openai import APIConnectionError, AsyncOpenAI, AsyncStream, InternalServerError, OpenAI
from openai.types.beta import AssistantStreamEvent

TOKENS = 8
TURNS = f"[[tool=no_such_tool:{{}} first=0.2]] [[tokens={TOKENS} first=0.2 delay=0.1]]"
"""A turn whose call the worker answers itself, which is a checkpoint, and one that says something, for a second."""
SAYING = 0.7
"""Seconds that the model takes from the first of these to the last."""
TEXT = "".join(f"word{number} " for number in range(TOKENS))
TROUBLE = (APIConnectionError, InternalServerError, httpx2.TransportError)
UNFINISHED = "SELECT count(*) FROM runs WHERE status IN ('queued', 'in_progress', 'cancelling')"
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PATIENCE = 180.0
PAUSE = 0.2


@dataclass(frozen=True)
class Talk:
    """What clients say, and what they are then to hear: a text, or whatever it may be; and how runs may end."""

    content: str = TURNS
    answer: str | None = TEXT
    ends: frozenset[str] = frozenset({"completed"})
    tools: tuple[Any, ...] = (WEATHER,)


@dataclass
class Heard:
    """One conversation, as its client heard it."""

    thread_id: str
    path: str | None = None
    cursor: str | None = None
    status: str = "not heard of"
    said: dict[str, str] = field(default_factory=dict)
    final: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    seconds: float = 0.0
    times: list[float] = field(default_factory=list)

    @property
    def spread(self) -> float:
        """Seconds from the first delta to the last."""
        return self.times[-1] - self.times[0] if self.times else 0.0

    def hear(self, name: str, data: Any) -> None:
        """Take an event."""
        if name == "thread.message.delta":
            self.times.append(time.monotonic())
            before = self.said.get(data["id"], "")
            self.said[data["id"]] = before + data["delta"]["content"][0]["text"]["value"]
        elif name == "thread.message.completed":
            text = data["content"][0]["text"]["value"]
            assert text.startswith(self.said.get(data["id"], "")), (self, text)
            self.final.append(text)
        elif name.startswith("thread.run.") and "step" not in name:
            self.status = data["status"]


class Client:
    """Talks until `over`."""

    def __init__(self, client: AsyncOpenAI, assistant_id: str, content: str = TURNS) -> None:
        self._client = client
        self._assistant_id = assistant_id
        self._said: Any = {"role": "user", "content": content}
        self.conversations: list[Heard] = []

    @property
    def ended(self) -> int:
        """How many conversations are over."""
        return sum(bool(heard.seconds) for heard in self.conversations)

    async def talk(self, over: asyncio.Event) -> None:
        """Hold conversations, each to its end."""
        while not over.is_set():
            thread = await self._insist(lambda: self._client.beta.threads.create(messages=[self._said]))
            heard = Heard(thread.id)
            self.conversations.append(heard)
            began = time.monotonic()
            await self._hear(heard)
            heard.seconds = time.monotonic() - began

    async def _hear(self, heard: Heard) -> None:
        while (end := await self._listen(heard)) != "done":
            heard.ends.append(end)
            await asyncio.sleep(PAUSE)
            if heard.path is None:  # the run may have been created although nobody said so
                runs = await self._insist(lambda: self._client.beta.threads.runs.list(heard.thread_id))
                if runs.data:
                    heard.path = f"/threads/{heard.thread_id}/runs/{runs.data[0].id}/events"

    async def _listen(self, heard: Heard) -> str:
        try:
            stream = await self._open(heard)
            if heard.path is None:
                heard.path = stream.response.headers["content-location"].removeprefix("/v1")
            async for name, id_, data in _frames(stream):
                if name == "done":
                    return name
                if name == "error":
                    return str(data["error"]["code"])
                heard.cursor = id_ or heard.cursor
                heard.hear(name, data)
        except TROUBLE as error:
            return type(error).__name__
        return "silence"

    async def _open(self, heard: Heard) -> AsyncStream[AssistantStreamEvent]:
        if heard.path is None:
            return await self._client.beta.threads.runs.create(
                heard.thread_id, assistant_id=self._assistant_id, stream=True
            )
        kind: Any = AssistantStreamEvent  # what the client casts to, a union, is no type
        told: AsyncStream[AssistantStreamEvent] = await self._client.get(
            heard.path,
            options={"headers": {"Last-Event-ID": heard.cursor} if heard.cursor else {}},
            cast_to=kind,
            stream=True,
            stream_cls=AsyncStream[AssistantStreamEvent],
        )
        return told

    async def _insist(self, ask: Any) -> Any:
        while True:
            try:
                return await ask()
            except TROUBLE:
                await asyncio.sleep(PAUSE)


async def _frames(stream: AsyncStream[AssistantStreamEvent]) -> AsyncIterator[tuple[str, str | None, Any]]:
    fields: dict[str, str] = {}
    async for line in stream.response.aiter_lines():
        if not line:
            if "event" in fields:
                told = fields["data"]
                yield fields["event"], fields.get("id"), None if told == "[DONE]" else json.loads(told)
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value


def official(environment: dict[str, str]) -> OpenAI:
    """The official client, as `assistantd env` configures it."""
    return OpenAI(base_url=environment["OPENAI_BASE_URL"], api_key=environment["OPENAI_API_KEY"], max_retries=0)


def connected(environment: dict[str, str]) -> AsyncOpenAI:
    """The official asynchronous client."""
    return AsyncOpenAI(
        base_url=environment["OPENAI_BASE_URL"], api_key=environment["OPENAI_API_KEY"], max_retries=0, timeout=60
    )


@asynccontextmanager
async def talking(environment: dict[str, str], count: int = 4, talk: Talk = Talk()) -> AsyncIterator[list[Client]]:
    """So many clients, which talk while the block runs; each then ends its last conversation, and all are checked."""
    over = asyncio.Event()
    async with connected(environment) as client:
        assistant = await client.beta.assistants.create(model="scripted", tools=list(talk.tools))
        clients = [Client(client, assistant.id, talk.content) for _ in range(count)]
        talks = asyncio.gather(*(each.talk(over) for each in clients))
        try:
            await more(clients, 1)
            yield clients
            over.set()
            await asyncio.wait_for(talks, PATIENCE)
        finally:
            talks.cancel()
            await asyncio.wait([talks])
        conversations = [heard for each in clients for heard in each.conversations]
        for heard in conversations:
            _check(heard, talk)
            runs = await client.beta.threads.runs.list(heard.thread_id)
            assert [run.status for run in runs.data] == [heard.status], heard
    longest = max(heard.seconds for heard in conversations)
    breaks = dict(Counter(end for heard in conversations for end in heard.ends))
    ends = dict(Counter(heard.status for heard in conversations))
    print(f"\n{count} clients, runs {ends}, longest {longest:.1f} s, connections refused or broken {breaks}")  # noqa: T201


def _check(heard: Heard, talk: Talk) -> None:
    assert heard.status in talk.ends, heard
    if heard.status != "completed":
        return
    assert len(heard.final) == 1, heard
    assert heard.final[0] if talk.answer is None else heard.final[0] == talk.answer, heard


async def more(clients: list[Client], conversations: int) -> None:
    """Wait until every client has ended so many more conversations than it has by now."""
    enough = [client.ended + conversations for client in clients]
    async with asyncio.timeout(PATIENCE):
        while True:
            if all(client.ended >= count for client, count in zip(clients, enough, strict=True)):
                return
            await asyncio.sleep(PAUSE)
