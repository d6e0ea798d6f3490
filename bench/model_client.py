"""CPU that one streamed call and one streamed token cost in this process: our model client against others.

    python -m bench.model_client [--calls 400] [--tokens 40] [--concurrency 100] [--rounds 3]

The limit is a bare client: asyncio's transport, httptools, one orjson.loads for each event, nothing that can go wrong.
Ours is measured over both of its HTTP clients, and beside the official package.

The scripted model server runs in a process of its own. It sends every token in a write of its own, some milliseconds
apart, so that no client gets them in one piece, or all at once ("instant"). The rounds of the clients alternate;
medians are shown. The cost of a token is the slope between replies of one token and of many; the cost of a call is what
remains at no token.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from unittest.mock import patch
from urllib.parse import urlsplit

import httptools
import openai
import orjson
import uvloop
from rich.console import Console
from rich.table import Table

from orchestrator.http_stream import Target
from orchestrator.model import Finished, Prompt
from orchestrator.openai_model import OpenAIModel
from orchestrator.settings import Settings
from tests.fakes.model_control import RemoteModelServer

Call = Callable[[str], Awaitable[int]]
PACE = 0.005


@asynccontextmanager
async def ours(base_url: str) -> AsyncIterator[Call]:
    """One call of `OpenAIModel`; it returns how many deltas it heard."""
    given = {"DATABASE_URL": "postgresql://unused", "REDIS_URL": "redis://unused", "UPSTREAM_BASE_URL": base_url}
    async with OpenAIModel(Settings.model_validate(given)) as model:

        async def call(content: str) -> int:
            heard = 0
            async for deltas in model.stream(Prompt("gpt-4o", [{"role": "user", "content": content}], [])):
                heard += sum(not isinstance(delta, Finished) for delta in deltas)
            return heard

        yield call


@asynccontextmanager
async def ours_over_aiohttp(base_url: str) -> AsyncIterator[Call]:
    """The same where the lean HTTP client is not made for the address."""
    async with AsyncExitStack() as stack:
        with patch.object(Target, "of", return_value=None):
            call = await stack.enter_async_context(ours(base_url))
        yield call


class Bare(asyncio.Protocol):
    """The least that hears a reply: one connection, one answer after the other, every event parsed."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.events: list[bytes] = []
        self.rest = b""
        self.over = False
        self.came: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It stands."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Some of an answer."""
        self.parser.feed_data(data)
        if self.came is not None:
            self.came.set_result(None)
            self.came = None

    def on_body(self, body: bytes) -> None:
        """Some of its body."""
        *events, self.rest = (self.rest + body).split(b"\n\n")
        self.events += events

    def on_message_complete(self) -> None:
        """Its end."""
        self.over = True


@asynccontextmanager
async def bare(base_url: str) -> AsyncIterator[Call]:
    """The limit."""
    parts = urlsplit(base_url)
    head = f"POST {parts.path}/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    loop = asyncio.get_running_loop()
    host, port = parts.hostname or "", parts.port or 80
    free: list[Bare] = []

    async def call(content: str) -> int:
        connection = free.pop() if free else (await loop.create_connection(Bare, host, port))[1]
        connection.over = False
        question = {"model": "gpt-4o", "messages": [{"role": "user", "content": content}], "stream": True}
        body = orjson.dumps(question)
        connection.transport.write(head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))  # type: ignore[attr-defined]  # it is a stream
        heard = 0
        while not connection.over or connection.events:
            if not connection.events:
                connection.came = loop.create_future()
                await connection.came
            events, connection.events = connection.events, []
            for event in events:
                if event != b"data: [DONE]" and (choices := orjson.loads(event[6:])["choices"]):
                    heard += bool(choices[0]["delta"].get("content"))
        free.append(connection)
        return heard

    yield call
    for connection in free:
        connection.transport.close()


@asynccontextmanager
async def official(base_url: str) -> AsyncIterator[Call]:
    """The same with `AsyncOpenAI`, as it comes."""
    limits = openai.DefaultAsyncHttpxClient(limits=openai.DEFAULT_CONNECTION_LIMITS, trust_env=False)
    async with openai.AsyncOpenAI(
        base_url=base_url, api_key="k", max_retries=0, timeout=600.0, http_client=limits
    ) as client:

        async def call(content: str) -> int:
            heard = 0
            stream = await client.chat.completions.create(
                model="gpt-4o",
                messages=[{"role": "user", "content": content}],
                stream=True,
                stream_options={"include_usage": True},
            )
            async for chunk in stream:
                heard += bool(chunk.choices and chunk.choices[0].delta.content)
            return heard

        yield call


async def cost_of(call: Call, tokens: int, calls: int, concurrency: int, pace: float = PACE) -> float:
    """CPU seconds of this process per call, with so many tokens each."""
    content = f"[[tokens={tokens} delay={pace}]]"
    left = calls

    async def one_after_another() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            heard = await call(content)
            if heard != tokens:
                raise RuntimeError(f"Heard {heard} of {tokens} tokens.")

    started = time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(one_after_another())
    return (time.process_time() - started) / calls


async def measure(base_url: str, options: argparse.Namespace) -> dict[str, list[tuple[float, float, float]]]:
    """For each client and round: seconds per call at no token, per token, and per instant reply of all tokens."""
    makers = {
        "bare httptools (the limit)": bare,
        "OpenAIModel": ours,
        "OpenAIModel over aiohttp": ours_over_aiohttp,
        "openai.AsyncOpenAI": official,
    }
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in makers}
    async with AsyncExitStack() as stack:
        clients = {name: await stack.enter_async_context(maker(base_url)) for name, maker in makers.items()}
        for call in clients.values():
            await cost_of(call, 2, options.concurrency, options.concurrency)
        for _ in range(options.rounds):
            for name, call in clients.items():
                short = await cost_of(call, 1, options.calls, options.concurrency)
                long = await cost_of(call, options.tokens, options.calls, options.concurrency)
                instant = await cost_of(call, options.tokens, options.calls, options.concurrency, pace=0)
                per_token = (long - short) / (options.tokens - 1)
                found[name].append((short - per_token, per_token, instant))
    return found


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="CPU cost of the model clients.")
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with RemoteModelServer.start() as server:
        found = uvloop.run(measure(server.base_url, options))
    columns = ("CPU per call, µs", "CPU per token, µs", f"CPU per instant reply of {options.tokens}, µs")
    table = Table("client", *columns, title=f"{options.concurrency} streams at once")
    for name, rounds in found.items():
        per_call, per_token, instant = (statistics.median(column) * 1e6 for column in zip(*rounds, strict=True))
        table.add_row(name, f"{per_call:.0f}", f"{per_token:.1f}", f"{instant:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
