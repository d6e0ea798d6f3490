"""CPU that one streamed call and one streamed token cost in this process: our model client against the official one.

    python -m bench.model_client [--calls 400] [--tokens 40] [--concurrency 100] [--rounds 3]

The scripted model server runs in a process of its own and sends every token in a write of its own, some milliseconds
apart, so that no client gets them in one piece. The rounds of the clients alternate; medians are shown. The cost of
a token is the slope between replies of one token and of many; the cost of a call is what remains at no token.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import openai
import uvloop
from rich.console import Console
from rich.table import Table

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
async def official(base_url: str) -> AsyncIterator[Call]:
    """The same with `AsyncOpenAI`, as it comes."""
    limits = openai.DefaultAsyncHttpxClient(limits=openai.DEFAULT_CONNECTION_LIMITS, trust_env=False)
    async with openai.AsyncOpenAI(base_url=base_url, api_key="k", max_retries=0, http_client=limits) as client:

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


async def cost_of(call: Call, tokens: int, calls: int, concurrency: int) -> float:
    """CPU seconds of this process per call, with so many tokens each."""
    content = f"[[tokens={tokens} delay={PACE}]]"
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


async def measure(base_url: str, options: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """For each client and round: seconds per call at no token, seconds per token."""
    found: dict[str, list[tuple[float, float]]] = {"OpenAIModel": [], "openai.AsyncOpenAI": []}
    async with AsyncExitStack() as stack:
        clients = {
            "OpenAIModel": await stack.enter_async_context(ours(base_url)),
            "openai.AsyncOpenAI": await stack.enter_async_context(official(base_url)),
        }
        for call in clients.values():
            await cost_of(call, 2, options.concurrency, options.concurrency)
        for _ in range(options.rounds):
            for name, call in clients.items():
                short = await cost_of(call, 1, options.calls, options.concurrency)
                long = await cost_of(call, options.tokens, options.calls, options.concurrency)
                per_token = (long - short) / (options.tokens - 1)
                found[name].append((short - per_token, per_token))
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
    table = Table("client", "CPU per call, µs", "CPU per token, µs", title=f"{options.concurrency} streams at once")
    for name, rounds in found.items():
        per_call, per_token = (statistics.median(column) * 1e6 for column in zip(*rounds, strict=True))
        table.add_row(name, f"{per_call:.0f}", f"{per_token:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
