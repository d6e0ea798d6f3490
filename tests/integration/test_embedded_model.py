"""The embedded model, for real: `model serve` as a process, judged by the official client.

The model's file is fetched if this machine does not have it (491 MB, once).
"""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam, ChatCompletionToolParam

from orchestrator.embedded.model.cache import Step
from orchestrator.embedded.model.fetching import ensure
from orchestrator.errors import Relayed
from orchestrator.openai_gateway import Gateway, Question
from orchestrator.settings import Settings

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
QUESTION: ChatCompletionMessageParam = {"role": "user", "content": "What is the weather in Paris?"}
HELLO: ChatCompletionMessageParam = {"role": "user", "content": "Say hello."}
ANSWERED: list[ChatCompletionMessageParam] = [
    QUESTION,
    {
        "role": "assistant",
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "18 °C, light rain"},
]


@pytest.fixture(scope="module")
async def base_url() -> AsyncIterator[str]:
    def ignore(_step: Step) -> None:
        """Nobody watches."""

    await ensure("0.5b", ignore)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = (sys.executable, "-m", "orchestrator.cli", "model", "serve", "--port", str(port), "--queue", "1")
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        await asyncio.wait_for(_until_healthy(process, f"http://127.0.0.1:{port}/health"), 60)
        yield f"http://127.0.0.1:{port}/v1"
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 15) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _until_healthy(process: asyncio.subprocess.Process, url: str) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            assert process.returncode is None, "the model server ended"
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.1)


@pytest.fixture
async def client(base_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=120) as client:
        yield client


async def test_text_is_streamed_with_its_usage(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="gpt-4o",
        messages=[{"role": "user", "content": "Count from one to five in words."}],
        stream=True,
        stream_options={"include_usage": True},
        max_completion_tokens=40,
    )
    chunks = [chunk async for chunk in stream]

    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    usage = chunks[-1].usage
    assert "three" in "".join(texts).lower()
    assert len([text for text in texts if text]) > 3
    assert {chunk.model for chunk in chunks} == {"qwen2.5-coder-0.5b-instruct"}
    assert usage is not None
    assert 0 < usage.completion_tokens <= 40
    assert usage.prompt_tokens > 10


async def test_a_tool_call_is_streamed_and_its_result_is_answered(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="gpt-4o", messages=[QUESTION], tools=[WEATHER], stream=True)
    name, arguments, reason = await _call(stream)
    answer = await client.chat.completions.create(model="gpt-4o", messages=ANSWERED, tools=[WEATHER], temperature=0)

    assert (name, json.loads(arguments), reason) == ("get_weather", {"city": "Paris"}, "tool_calls")
    assert answer.choices[0].finish_reason == "stop"
    assert "18" in (answer.choices[0].message.content or "")


async def _call(stream: openai.AsyncStream[ChatCompletionChunk]) -> tuple[str, str, str | None]:
    name, arguments, reason = "", "", None
    async for chunk in stream:
        choice = chunk.choices[0]
        reason = choice.finish_reason or reason
        for call in choice.delta.tool_calls or []:
            assert call.function is not None
            name += call.function.name or ""
            arguments += call.function.arguments or ""
    return name, arguments, reason


async def test_a_required_call_is_made_and_not_repeated_once_it_is_answered(client: openai.AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "gpt-4o", "tools": [WEATHER], "tool_choice": "required", "temperature": 0}

    first = await client.chat.completions.create(messages=[QUESTION], **asked)
    second = await client.chat.completions.create(messages=ANSWERED, **asked)

    assert first.choices[0].message.tool_calls
    assert not second.choices[0].message.tool_calls
    assert "18" in (second.choices[0].message.content or "")


async def test_json_follows_its_schema(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="gpt-4o",
        messages=[{"role": "user", "content": "Describe a person: Ann, 31 years old."}],
        response_format={
            "type": "json_schema",
            "json_schema": {
                "name": "person",
                "schema": {
                    "type": "object",
                    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
                    "required": ["name", "age"],
                    "additionalProperties": False,
                },
            },
        },
        max_tokens=60,
    )

    assert json.loads(answer.choices[0].message.content or "") == {"name": "Ann", "age": 31}


async def test_a_prompt_beyond_the_context_is_refused(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(
            model="any", messages=[{"role": "user", "content": "word " * 9000}], stream=True
        )

    assert refused.value.code == "context_length_exceeded"
    assert "maximum context length is 4096 tokens" in refused.value.message


async def test_a_schema_that_the_grammar_cannot_take_does_no_harm(client: openai.AsyncOpenAI) -> None:
    odd: ChatCompletionToolParam = {
        "type": "function",
        "function": {"name": "odd", "parameters": {"type": "object", "properties": {"x": {"type": "weird"}}}},
    }

    answer = await client.chat.completions.create(
        model="any", messages=[HELLO], tools=[odd], tool_choice="required", max_tokens=40
    )

    call = (answer.choices[0].message.tool_calls or [])[0]
    assert call.type == "function"
    assert call.function.name == "odd"


async def test_a_client_that_leaves_frees_its_place_and_a_full_line_is_told(
    client: openai.AsyncOpenAI, base_url: str
) -> None:
    endless: dict[str, Any] = {"model": "any", "messages": [{"role": "user", "content": "Write a very long story."}]}
    streams = [await client.chat.completions.create(stream=True, max_tokens=1000, **endless) for _ in range(2)]
    waiting = asyncio.create_task(client.chat.completions.create(model="any", messages=[HELLO], max_tokens=3))
    await asyncio.wait_for(_until_health(base_url, {"status": "ok", "busy": 2, "waiting": 1}), 10)
    with pytest.raises(openai.RateLimitError) as busy:
        await client.chat.completions.create(model="any", messages=[HELLO], max_tokens=3)

    for stream in streams:
        await stream.close()
    served = await asyncio.wait_for(waiting, 20)

    assert busy.value.response.headers["retry-after"] == "5"
    assert served.usage is not None
    assert served.usage.completion_tokens == 3
    await asyncio.wait_for(_until_health(base_url, {"status": "ok", "busy": 0, "waiting": 0}), 10)


async def _until_health(base_url: str, expected: dict[str, Any]) -> None:
    async with aiohttp.ClientSession() as session:
        health = None
        while health != expected:
            await asyncio.sleep(0.05)
            async with session.get(base_url.removesuffix("/v1") + "/health") as response:
                health = await response.json()


async def test_what_is_not_there_is_told_in_the_envelope(client: openai.AsyncOpenAI, base_url: str) -> None:
    with pytest.raises(openai.NotFoundError, match="it has no embeddings"):
        await client.embeddings.create(model="any", input="text")
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        await client.models.retrieve("gpt-4o")
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{base_url}/models", headers={"Host": "evil.example"}) as answer,
    ):
        assert answer.status == 403

    models = await client.models.list()

    assert [model.id for model in models.data] == ["qwen2.5-coder-0.5b-instruct"]


async def test_completions_are_passed_on_to_it_and_embeddings_are_refused_clearly(base_url: str) -> None:
    given = {"DATABASE_URL": "postgresql://x", "REDIS_URL": "redis://x", "UPSTREAM_BASE_URL": base_url}
    body = {"model": "qwen2.5-coder-0.5b-instruct", "messages": [HELLO], "max_tokens": 8, "stream": True}
    asked = Question(json.dumps(body).encode(), "qwen2.5-coder-0.5b-instruct", "req_1", streams=True)
    async with Gateway(Settings.model_validate(given)) as gateway:
        async with gateway.complete(asked) as answer:
            heard = b"".join([piece async for piece in answer.pieces])
        with pytest.raises(Relayed, match="The built-in model only chats; it has no embeddings") as refused:
            async with gateway.embed(Question(b'{"model":"m","input":"x"}', "m", "req_2"), "base64"):
                pass

    assert answer.streams
    assert heard.endswith(b"data: [DONE]\n\n")
    assert refused.value.status == 404
