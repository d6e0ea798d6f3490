"""The scripted model server behaves like the original: the official client, sync and async, is the judge."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from tests.fakes.model_control import RemoteModelServer
from tests.fakes.model_server import ModelServer
from tests.fakes.replies import Reply


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as running:
        yield running


@pytest.fixture
async def client(server: ModelServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=server.base_url, api_key="sk-test", max_retries=0) as opened:
        yield opened


async def chunks(client: openai.AsyncOpenAI, content: str = "Hi", **more: Any) -> list[ChatCompletionChunk]:
    stream = await client.chat.completions.create(
        model="gpt-4o",
        messages=[{"role": "user", "content": content}],
        stream=True,
        stream_options={"include_usage": True},
        **more,
    )
    return [chunk async for chunk in stream]


def text_of(found: list[ChatCompletionChunk]) -> str:
    return "".join(choice.delta.content or "" for chunk in found for choice in chunk.choices)


async def test_a_text_streams_as_the_original_streams_it(server: ModelServer, client: openai.AsyncOpenAI) -> None:
    server.script(Reply.text("Hello you there").costing(prompt=9, completion=3, cached=4, reasoning=1))

    found = await chunks(client)

    assert found[0].choices[0].delta.role == "assistant"
    assert [choice.delta.content for chunk in found[1:4] for choice in chunk.choices] == ["Hello", " you", " there"]
    assert found[4].choices[0].finish_reason == "stop"
    assert found[5].choices == []
    assert found[5].usage is not None
    assert found[5].usage.total_tokens == 12
    assert found[5].usage.prompt_tokens_details is not None
    assert found[5].usage.prompt_tokens_details.cached_tokens == 4
    assert {chunk.id for chunk in found} == {found[0].id}


async def test_the_streaming_helper_of_the_client_accumulates_text_and_parallel_tool_calls(
    server: ModelServer, client: openai.AsyncOpenAI
) -> None:
    server.script(Reply.text("Let me look.").calling(("weather", {"city": "Köln"}), ("time", "{}")))

    async with client.chat.completions.stream(model="gpt-4o", messages=[{"role": "user", "content": "?"}]) as stream:
        final = await stream.get_final_completion()

    message = final.choices[0].message
    assert message.content == "Let me look."
    assert message.tool_calls is not None
    functions = [call.function for call in message.tool_calls if call.type == "function"]
    assert [(function.name, json.loads(function.arguments)) for function in functions] == [
        ("weather", {"city": "Köln"}),
        ("time", {}),
    ]
    assert final.choices[0].finish_reason == "tool_calls"


async def test_call_ids_differ_between_requests_for_the_same_reply(
    server: ModelServer, client: openai.AsyncOpenAI
) -> None:
    server.script(*[Reply.tool_calls(("f", {}))] * 2)

    both = [await chunks(client), await chunks(client)]

    ids = {
        call.id
        for found in both
        for chunk in found
        for c in chunk.choices
        for call in c.delta.tool_calls or ()
        if call.id
    }
    assert len(ids) == 2


async def test_a_request_that_does_not_stream_gets_one_document(
    server: ModelServer, client: openai.AsyncOpenAI
) -> None:
    server.script(Reply.tool_calls(("f", {"a": 1})))

    answer = await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])

    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.usage is not None


async def test_scripted_errors_become_the_error_classes_of_the_client(
    server: ModelServer, client: openai.AsyncOpenAI
) -> None:
    server.script(Reply.error(429, "Slow down", code="rate_limit_exceeded", retry_after=1), Reply.error(500))

    with pytest.raises(openai.RateLimitError) as limited:
        await chunks(client)
    with pytest.raises(openai.InternalServerError):
        await chunks(client)

    assert limited.value.code == "rate_limit_exceeded"
    assert limited.value.response.headers["retry-after"] == "1"
    assert limited.value.request_id == server.requests[0].request_id


async def test_a_required_key_is_checked() -> None:
    async with ModelServer(api_key="sk-right") as server:
        wrong = openai.AsyncOpenAI(base_url=server.base_url, api_key="sk-wrong", max_retries=0)
        right = openai.AsyncOpenAI(base_url=server.base_url, api_key="sk-right", max_retries=0)
        async with wrong, right:
            with pytest.raises(openai.AuthenticationError):
                await wrong.models.list()

            assert text_of(await chunks(right)) == "Hello!"


async def test_models_are_listed_and_retrieved(client: openai.AsyncOpenAI) -> None:
    listed = [model.id async for model in await client.models.list()]

    assert (await client.models.retrieve("gpt-4o")).id == "gpt-4o"
    assert "gpt-4o" in listed
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nothing")


async def test_directives_in_the_last_user_message_script_the_turns_that_follow(client: openai.AsyncOpenAI) -> None:
    asked = 'Weather? [[tool=weather:{"city":"P]]aris"} tool2=time:{}]] [[text="It rains." finish=length prompt=7]]'
    called: list[Any] = [{"role": "assistant", "content": None, "tool_calls": []}]

    first = await chunks(client, asked)
    stream = await client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": asked}, *called], stream=True
    )
    second = [chunk async for chunk in stream]

    names = [call.function.name for c in first for o in c.choices for call in o.delta.tool_calls or () if call.function]
    assert [name for name in names if name] == ["weather", "time"]
    assert text_of(second) == "It rains."
    assert second[-1].choices[0].finish_reason == "length"


async def test_a_directive_can_fail_a_number_of_times(client: openai.AsyncOpenAI) -> None:
    asked = "[[fail=503 times=2 id=abc text=fine]]"

    for _ in range(2):
        with pytest.raises(openai.InternalServerError):
            await chunks(client, asked)

    assert text_of(await chunks(client, asked)) == "fine"


async def test_rules_answer_requests_that_arrive_in_any_order(server: ModelServer, client: openai.AsyncOpenAI) -> None:
    server.rule(lambda body: Reply.text(body["messages"][-1]["content"].upper()))

    answers = await asyncio.gather(*(chunks(client, word) for word in ("one", "two", "three")))

    assert [text_of(found) for found in answers] == ["ONE", "TWO", "THREE"]


async def test_a_gate_holds_a_reply_until_it_is_released(server: ModelServer, client: openai.AsyncOpenAI) -> None:
    server.script(Reply.text("one two three").held("door", after=1))

    task = asyncio.create_task(chunks(client))
    await server.reached("door")
    sent_before = server.requests[0].deltas_sent
    server.release("door")

    assert text_of(await task) == "one two three"
    assert sent_before == 1


async def test_a_client_that_leaves_is_noticed(server: ModelServer, client: openai.AsyncOpenAI) -> None:
    server.script(Reply.text("one two").held("door", after=1))

    task = asyncio.create_task(chunks(client))
    await server.reached("door")
    task.cancel()
    await server.disconnected()

    assert server.requests[0].disconnected


async def test_a_dropped_reply_breaks_the_connection(server: ModelServer, client: openai.AsyncOpenAI) -> None:
    server.script(Reply.text("one two three").dropped(after=2))

    with pytest.raises(openai.APIConnectionError):
        await chunks(client)

    assert server.disconnects == 0


def test_as_its_own_process_it_is_scripted_and_watched_over_http() -> None:
    with (
        RemoteModelServer.start() as server,
        openai.OpenAI(base_url=server.base_url, api_key="k", max_retries=0) as client,
    ):
        server.script(Reply.text("From afar").held("door").costing(prompt=1, completion=2))
        with client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "Hi"}], stream=True
        ) as stream:
            server.wait_for(lambda state: state["gates"].get("door", {}).get("waiting") == 1)
            server.release("door")
            said = "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)
        recorded = server.requests()
        server.reset()

        assert said == "From afar"
        assert recorded[0]["body"]["model"] == "gpt-4o"
        assert server.state()["requests"] == 0
