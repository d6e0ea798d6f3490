"""The model client against the scripted model server: what it asks, what it hears, and what it does about trouble."""

import asyncio
import contextlib
import gc
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from orchestrator import openai_model
from orchestrator.errors import SORRY, RunFailure, Unavailable
from orchestrator.http_stream import Target
from orchestrator.model import Delta, Finished, Prompt, RefusalDelta, TextDelta, ToolCallDelta, Usage
from orchestrator.openai_http import proxy_for
from orchestrator.openai_model import OpenAIModel
from orchestrator.settings import Settings
from tests.fakes.model_server import ModelServer
from tests.fakes.replies import Reply

KEY = "sk-secret-of-the-operator"
QUOTA = "You exceeded your current quota, please check your plan and billing details."
HELLO = Reply.text("Hello you")


def settings(base_url: str | None, **more: Any) -> Settings:
    given = {"DATABASE_URL": "postgresql://x", "REDIS_URL": "redis://x", "UPSTREAM_BASE_URL": base_url}
    return Settings.model_validate({**given, "UPSTREAM_API_KEY": KEY, **more})


@pytest.fixture(autouse=True, params=["lean", "aiohttp"])
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever HTTP client is at work, nobody notices."""
    if request.param == "aiohttp":
        monkeypatch.setattr(Target, "of", lambda *_: None)


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer(api_key=KEY) as running:
        yield running


class Pauses:
    """Takes the place of `asyncio.sleep` between attempts: nobody waits, and the waits are known."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
async def model(server: ModelServer, pauses: Pauses) -> AsyncIterator[OpenAIModel]:
    async with OpenAIModel(settings(server.base_url), pause=pauses) as opened:
        yield opened


def prompt(content: str = "Hi", **more: Any) -> Prompt:
    return Prompt(model="gpt-4o", messages=[{"role": "user", "content": content}], **{"tools": [], **more})


async def hear(model: OpenAIModel, asked: Prompt | None = None) -> list[Delta]:
    return [delta async for deltas in model.stream(asked or prompt()) for delta in deltas]


def text(heard: list[Delta]) -> str:
    return "".join(delta.text for delta in heard if isinstance(delta, TextDelta))


async def failure(model: OpenAIModel) -> RunFailure:
    with pytest.raises(RunFailure) as raised:
        await hear(model)
    return raised.value


async def test_a_text_is_heard_token_by_token_and_finished_once(server: ModelServer, model: OpenAIModel) -> None:
    server.script(HELLO.costing(prompt=9, completion=2, cached=4, reasoning=1))

    heard = await hear(model)

    request_id = server.requests[0].request_id
    assert heard == [TextDelta("Hello"), TextDelta(" you"), Finished("stop", Usage(9, 2, 4, 1), request_id)]


@pytest.mark.parametrize("willing", [True, False])
async def test_an_ear_is_told_of_text_in_its_place_among_the_deltas(
    server: ModelServer, model: OpenAIModel, *, willing: bool
) -> None:
    server.script(Reply.text(tokens=30).paced(each=0.005))
    heard: list[Delta] = []

    def ear(text: str) -> bool:
        if willing:
            heard.append(TextDelta(text))
        return willing

    async for deltas in model.stream(prompt(ear=ear)):
        heard += deltas

    server.script(Reply.text(tokens=30))
    assert text(heard) == text(await hear(model))
    assert [type(delta) for delta in heard] == [TextDelta] * 30 + [Finished]


async def test_a_model_that_takes_its_time_is_told_of_once_before_its_first_word(
    server: ModelServer, model: OpenAIModel
) -> None:
    server.script(HELLO.held("gate"))

    async with contextlib.aclosing(model.stream(prompt())) as stream:
        begun = await asyncio.wait_for(anext(stream), 60)
        server.release("gate")
        heard = [deltas async for deltas in stream]

    assert begun == []
    assert all(heard)
    assert text([delta for deltas in heard for delta in deltas]) == "Hello you"


async def test_a_model_that_says_nothing_worth_telling_takes_its_time(
    server: ModelServer, model: OpenAIModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.openai_model._HUSH", 0.05)
    server.script(Reply.text("Hello").held("gate").beating(0.001))

    async with contextlib.aclosing(model.stream(prompt())) as stream:
        assert await asyncio.wait_for(anext(stream), 60) == []


async def test_a_model_that_speaks_at_once_is_not_announced(
    server: ModelServer, model: OpenAIModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.openai_model._HUSH", 3600.0)
    server.script(HELLO)

    assert all([deltas async for deltas in model.stream(prompt())])


async def test_parallel_tool_calls_after_text_are_heard(server: ModelServer, model: OpenAIModel) -> None:
    server.script(Reply.text("Wait.").calling(("weather", {"city": "Köln"}), ("time", "{}")))

    heard = await hear(model)

    fragments = [delta for delta in heard if isinstance(delta, ToolCallDelta)]
    arguments = ["".join(one.arguments for one in fragments if one.index == index) for index in (0, 1)]
    assert [(one.index, one.name) for one in fragments if one.name] == [(0, "weather"), (1, "time")]
    assert [json.loads(one) for one in arguments] == [{"city": "Köln"}, {}]
    assert len({one.id for one in fragments if one.id}) == 2
    assert isinstance(heard[-1], Finished)
    assert heard[-1].reason == "tool_calls"


async def test_a_refusal_and_a_length_cut_are_heard(server: ModelServer, model: OpenAIModel) -> None:
    server.script(Reply.refusal("I cannot"), HELLO.finishing("length"), HELLO.finishing("content_filter"))

    refused, cut, filtered = await hear(model), await hear(model), await hear(model)

    assert refused[:-1] == [RefusalDelta("I"), RefusalDelta(" cannot")]
    assert isinstance(cut[-1], Finished)
    assert cut[-1].reason == "length"
    assert isinstance(filtered[-1], Finished)
    assert filtered[-1].reason == "content_filter"


async def test_only_what_is_set_is_sent(server: ModelServer, model: OpenAIModel) -> None:
    await hear(model)

    assert server.requests[0].body == {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


async def test_everything_that_is_set_is_sent_zeros_and_false_too(server: ModelServer, model: OpenAIModel) -> None:
    given: dict[str, Any] = {
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "required",
        "temperature": 0.0,
        "top_p": 0.0,
        "response_format": {"type": "json_object"},
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "max_completion_tokens": 256,
    }

    await hear(model, prompt(**given))

    assert server.requests[0].body.items() >= given.items()


async def test_a_prompt_of_many_megabytes_is_sent(server: ModelServer, model: OpenAIModel) -> None:
    await hear(model, prompt("x" * 5_000_000))

    assert len(server.requests[0].body["messages"][0]["content"]) == 5_000_000


async def test_a_connection_serves_one_reply_after_another(server: ModelServer) -> None:
    opened = 0

    async def count_connections(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        host, port = server.base_url.removeprefix("http://").removesuffix("/v1").split(":")
        upstream_reader, upstream_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(copy(reader, upstream_writer), copy(upstream_reader, writer))

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            writer.write(chunk)
        writer.close()

    relay = await asyncio.start_server(count_connections, "127.0.0.1", 0)
    port = relay.sockets[0].getsockname()[1]
    async with relay, OpenAIModel(settings(f"http://127.0.0.1:{port}/v1")) as model:
        for _ in range(5):
            assert text(await hear(model)) == "Hello!"

    assert opened == 1


async def test_a_429_is_tried_again_after_the_time_it_asks_for(
    server: ModelServer, model: OpenAIModel, pauses: Pauses
) -> None:
    server.script(Reply.error(429, retry_after=7), HELLO)

    heard = await hear(model)

    assert text(heard) == "Hello you"
    assert len(pauses.waits) == 1
    assert 7 <= pauses.waits[0] <= 7 * 1.25


async def test_5xx_is_tried_again_with_growing_waits_until_the_attempts_are_used_up(
    server: ModelServer, model: OpenAIModel, pauses: Pauses
) -> None:
    server.script(*[Reply.error(503)] * 4)

    failed = await failure(model)

    assert (failed.code, failed.message) == ("server_error", SORRY)
    assert server.request_count == 4
    assert [0.5 * 2**n <= wait <= 0.625 * 2**n for n, wait in enumerate(pauses.waits)] == [True] * 3


async def test_a_429_that_stays_is_a_rate_limit_with_its_own_sentence(server: ModelServer, model: OpenAIModel) -> None:
    server.script(*[Reply.error(429, "Rate limit reached for gpt-4o on requests per min")] * 4)

    failed = await failure(model)

    assert failed.code == "rate_limit_exceeded"
    assert failed.message == "Rate limit reached for gpt-4o on requests per min"


async def test_a_used_up_quota_is_not_tried_again(server: ModelServer, model: OpenAIModel) -> None:
    server.script(Reply.error(429, QUOTA, code="insufficient_quota"))

    failed = await failure(model)

    assert (failed.code, failed.message) == ("rate_limit_exceeded", QUOTA)
    assert server.request_count == 1


async def test_an_upstream_that_asks_for_minutes_is_given_up(server: ModelServer, model: OpenAIModel) -> None:
    server.script(Reply.error(429, "Busy", retry_after=600))

    failed = await failure(model)

    assert failed.code == "rate_limit_exceeded"
    assert server.request_count == 1


async def test_a_wait_that_outlasts_the_run_is_not_begun(
    server: ModelServer, model: OpenAIModel, pauses: Pauses
) -> None:
    server.script(Reply.error(503, retry_after=1), Reply.error(429, "Busy", retry_after=30), HELLO)

    with pytest.raises(RunFailure) as raised:
        await hear(model, prompt(deadline=asyncio.get_running_loop().time() + 20))

    assert (raised.value.code, raised.value.message) == ("rate_limit_exceeded", "Busy")
    assert len(pauses.waits) == 1
    assert server.request_count == 2


@pytest.mark.parametrize("arguments", ["", "Paris", '{"city": "Par', "[1]", "null", '{"city": "Paris"}'])
async def test_earlier_arguments_are_always_an_object_for_the_upstream(
    server: ModelServer, model: OpenAIModel, arguments: str
) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    asked = Prompt("gpt-4o", [{"role": "assistant", "content": None, "tool_calls": [call]}], [])

    await hear(model, asked)

    (sent,) = server.requests[0].body["messages"][0]["tool_calls"]
    whole = arguments == '{"city": "Paris"}'
    expected = {"city": "Paris"} if whole else {"malformed_arguments": arguments}
    assert json.loads(sent["function"]["arguments"]) == expected
    assert call["function"] == {"name": "f", "arguments": arguments}


async def test_a_prompt_that_is_too_long_is_an_invalid_prompt(server: ModelServer, model: OpenAIModel) -> None:
    said = "This model's maximum context length is 8192 tokens."
    server.script(Reply.error(400, said, code="context_length_exceeded"))

    failed = await failure(model)

    assert (failed.code, failed.message) == ("invalid_prompt", said)
    assert server.request_count == 1


async def test_a_missing_model_is_named(server: ModelServer, model: OpenAIModel) -> None:
    server.script(
        Reply.error(404, "The model `gpt-4o` does not exist or you do not have access", code="model_not_found")
    )

    failed = await failure(model)

    assert (failed.code, failed.message) == ("server_error", "The model 'gpt-4o' does not exist.")


async def test_a_wrong_key_is_told_to_the_operator_and_not_to_the_client(server: ModelServer) -> None:
    wrong = settings(server.base_url, UPSTREAM_API_KEY="sk-wrong-key")
    with capture_logs() as logs:
        async with OpenAIModel(wrong) as model:
            failed = await failure(model)

    assert (failed.code, failed.message) == ("server_error", SORRY)
    assert "UPSTREAM_API_KEY" in logs[0]["hint"]
    assert "sk-wrong" not in str(logs)


async def test_every_failed_attempt_is_logged_without_content(server: ModelServer, model: OpenAIModel) -> None:
    server.script(Reply.error(500, "You said: Hi, my name is Ada", headers={"X-Other": "1"}), HELLO)

    with capture_logs() as logs:
        await hear(model, prompt("Hi, my name is Ada"))

    assert len(logs) == 1
    assert logs[0]["event"] == "upstream_failed"
    assert logs[0]["status"] == 500
    assert logs[0]["attempt"] == 1
    assert logs[0]["upstream_request_id"] == server.requests[0].request_id
    assert logs[0]["retry_in"] > 0
    assert "Ada" not in str(logs)
    assert KEY not in str(logs)


async def test_a_connection_that_breaks_before_the_first_delta_is_tried_again(
    server: ModelServer, model: OpenAIModel, pauses: Pauses
) -> None:
    server.script(HELLO.dropped(after=0), HELLO)

    assert text(await hear(model)) == "Hello you"
    assert len(pauses.waits) == 1


async def hear_until_failure(server: ModelServer, model: OpenAIModel) -> tuple[list[Delta], RunFailure]:
    """What is heard of a reply held at "gate" after two deltas, and how it fails once both were heard."""
    stream = model.stream(prompt())
    heard = await anext(stream)
    while len(heard) < 2:
        heard += await anext(stream)
    server.release("gate")
    with pytest.raises(RunFailure) as raised:
        await anext(stream)
    return heard, raised.value


async def test_a_connection_that_breaks_in_mid_reply_ends_the_run(server: ModelServer, model: OpenAIModel) -> None:
    server.script(Reply.text("one two three").held("gate", after=2).dropped(after=2), HELLO)

    with capture_logs() as logs:
        heard, failed = await hear_until_failure(server, model)

    assert heard == [TextDelta("one"), TextDelta(" two")]
    assert (failed.code, failed.message) == ("server_error", SORRY)
    assert server.request_count == 1
    assert logs[0]["upstream_request_id"] == server.requests[0].request_id


async def test_an_error_object_before_the_first_delta_is_tried_again(server: ModelServer, model: OpenAIModel) -> None:
    server.script(Reply.raw(b'data: {"error":{"message":"Busy","type":"server_error"}}\n\n'), HELLO)

    assert text(await hear(model)) == "Hello you"


async def test_an_error_object_in_mid_reply_ends_the_run_with_its_code(server: ModelServer, model: OpenAIModel) -> None:
    server.script(HELLO.held("gate", after=2).failing("Slow down", code="rate_limit_exceeded"), HELLO)

    _, failed = await hear_until_failure(server, model)

    assert (failed.code, failed.message) == ("rate_limit_exceeded", "Slow down")
    assert server.request_count == 1


async def test_an_answer_in_one_document_is_heard_too(server: ModelServer, model: OpenAIModel) -> None:
    document = b'{"choices":[{"message":{"content":"All at once"},"finish_reason":"stop"}]}'
    server.script(Reply.raw(document, content_type="application/json"))

    assert await hear(model) == [TextDelta("All at once"), Finished("stop", Usage(), server.requests[0].request_id)]


async def test_an_answer_that_is_no_reply_at_all_is_a_server_error(server: ModelServer, model: OpenAIModel) -> None:
    server.script(*[Reply.raw(b"<html>login</html>", content_type="text/html")] * 4)

    assert (await failure(model)).message == SORRY


async def test_a_redirect_is_not_followed(server: ModelServer, model: OpenAIModel) -> None:
    server.script(Reply.error(307, headers={"Location": "http://127.0.0.1:1/v1/chat/completions"}))

    assert (await failure(model)).message == SORRY
    assert server.request_count == 1


async def test_a_silent_upstream_is_given_up(server: ModelServer) -> None:
    impatient = settings(server.base_url, upstream_read_timeout=0.1, upstream_retries=1)
    server.script(Reply.hang(), HELLO.held("never", after=1))

    async with OpenAIModel(impatient, pause=Pauses()) as model:
        failed = await failure(model)

    assert failed.code == "server_error"
    await server.disconnected(2)


async def test_nobody_at_the_address_is_a_server_error_after_all_attempts(unused_tcp_port: int, pauses: Pauses) -> None:
    async with OpenAIModel(settings(f"http://127.0.0.1:{unused_tcp_port}/v1"), pause=pauses) as model:
        failed = await failure(model)

        assert (failed.code, failed.message) == ("server_error", SORRY)
        assert len(pauses.waits) == 3
        with pytest.raises(Unavailable):
            await model.models()


async def test_without_an_upstream_runs_fail_at_once(pauses: Pauses) -> None:
    async with OpenAIModel(settings(None), pause=pauses) as model:
        assert (await failure(model)).code == "server_error"
        assert pauses.waits == []


async def test_a_complete_reply_whose_connection_breaks_counts(server: ModelServer, model: OpenAIModel) -> None:
    server.script(Reply.raw(b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'))

    assert text(await hear(model)) == "a"


async def test_a_complete_reply_does_not_wait_long_for_its_usage(
    server: ModelServer, model: OpenAIModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_model, "_TAIL_WAIT", 0.05)
    ended = asyncio.Event()

    async def answer_and_stay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        writer.write(b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n')
        await reader.read()
        writer.close()
        ended.set()

    lingering = await asyncio.start_server(answer_and_stay, "127.0.0.1", 0)
    async with (
        lingering,
        OpenAIModel(settings(f"http://127.0.0.1:{lingering.sockets[0].getsockname()[1]}/v1")) as model,
    ):
        heard = await hear(model)
        await asyncio.wait_for(ended.wait(), 60)

    assert heard == [TextDelta("a"), Finished("stop", Usage(), None)]


@pytest.mark.parametrize("reply", [Reply.hang(), HELLO.held("gate"), HELLO.held("gate", after=1)])
async def test_cancelling_the_task_cuts_the_connection(server: ModelServer, model: OpenAIModel, reply: Reply) -> None:
    server.script(reply)
    task = asyncio.create_task(hear(model))
    await server.received() if reply.hangs else await server.reached("gate")

    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await server.disconnected()

    assert task.cancelled()
    assert server.requests[0].disconnected


async def test_cancelling_between_attempts_ends_the_waiting(server: ModelServer) -> None:
    waiting = asyncio.Event()

    async def pause(seconds: float) -> None:
        waiting.set()
        await asyncio.sleep(seconds)

    server.script(Reply.error(429, retry_after=60))
    async with OpenAIModel(settings(server.base_url), pause=pause) as model:
        task = asyncio.create_task(hear(model))
        await asyncio.wait_for(waiting.wait(), 60)
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 30)


async def test_closing_the_stream_early_cuts_the_connection(server: ModelServer, model: OpenAIModel) -> None:
    server.script(HELLO.held("gate", after=1))

    async with contextlib.aclosing(model.stream(prompt())) as stream:
        assert (await anext(stream) or await anext(stream)) == [TextDelta("Hello")]
    await server.disconnected()

    assert server.requests[0].deltas_sent == 1


async def test_five_hundred_replies_are_heard_at_once(server: ModelServer, model: OpenAIModel) -> None:
    server.script(*[Reply.text(tokens=5).held("all", after=2)] * 500)

    tasks = [asyncio.create_task(hear(model)) for _ in range(500)]
    await server.reached("all", 500, timeout=60)
    server.release("all")

    assert {text(heard) for heard in await asyncio.gather(*tasks)} == {"word0 word1 word2 word3 word4 "}


async def test_models_are_listed_and_found(model: OpenAIModel) -> None:
    assert "gpt-4o" in {found["id"] for found in await model.models()}
    assert (await model.retrieve("gpt-4o") or {})["object"] == "model"
    assert await model.retrieve("nothing") is None


@pytest.mark.parametrize("bare", [True, False])
async def test_what_a_model_lacks_is_filled_in(unused_tcp_port_factory: Callable[[], int], bare: bool) -> None:
    cards = [{"id": "a/b"}, {"id": 7, "created": 1.5, "owned_by": None, "object": "x", "context": 8192}]
    body = json.dumps(cards if bare else {"data": cards}).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        await reader.read()
        writer.close()

    port = unused_tcp_port_factory()
    async with (
        await asyncio.start_server(answer, "127.0.0.1", port),
        OpenAIModel(settings(f"http://127.0.0.1:{port}/v1")) as model,
    ):
        found = await model.models()

    filled = {"object": "model", "owned_by": "unknown", "shutdown_date": None}
    assert found == [{**filled, "id": "a/b", "created": 0}, {**filled, "id": "7", "created": 1, "context": 8192}]


async def test_a_list_that_is_none_is_unavailable(unused_tcp_port_factory: Callable[[], int]) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{"data":"no"}')
        await reader.read()
        writer.close()

    port = unused_tcp_port_factory()
    async with (
        await asyncio.start_server(answer, "127.0.0.1", port),
        OpenAIModel(settings(f"http://127.0.0.1:{port}/v1")) as model,
    ):
        with pytest.raises(Unavailable):
            await model.models()


def test_loopback_is_never_reached_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("https_proxy", "proxy.example:3129")
    monkeypatch.setenv("no_proxy", "inside.example")

    proxies = [
        proxy_for(base)
        for base in (
            "http://127.0.0.1:8080/v1",
            "http://localhost/v1",
            "http://[::1]:80/v1",
            "https://api.inside.example/v1",
            "http://outside.example/v1",
            "https://outside.example/v1",
        )
    ]

    assert proxies == [None, None, None, None, "http://proxy.example:3128", "http://proxy.example:3129"]


async def test_a_proxy_of_the_environment_is_used_with_its_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b'HTTP/1.1 200 OK\r\nconnection: close\r\n\r\ndata: {"choices":[{"delta":{"content":"a"}}]}\n\n')
        writer.write(b"data: [DONE]\n\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("http_proxy", f"http://ada:secret@127.0.0.1:{port}")
        async with OpenAIModel(settings("http://outside.example/v1")) as model:
            heard = await hear(model)

    assert text(heard) == "a"
    assert asked[0].startswith("POST http://outside.example/v1/chat/completions HTTP/1.1")
    assert "proxy-authorization: basic" in asked[0].lower()


async def test_what_was_asked_is_forgotten_while_the_model_answers() -> None:
    """A prompt may carry tens of megabytes of images, and many runs hear their answers at the same time."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        left = int(head.partition("content-length: ")[2].split("\r\n")[0])
        while left:
            left -= len(await reader.read(left))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        writer.write(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n')
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with OpenAIModel(settings(base_url)) as model:
            tracemalloc.start()
            try:
                answering = model.stream(prompt("x" * 20_000_000))
                async with contextlib.aclosing(answering):
                    assert (await anext(answering) or await anext(answering)) == [TextDelta("a")]
                    kept, most = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()

    assert most > 20_000_000
    assert kept < 5_000_000


async def test_what_was_asked_is_forgotten_when_the_model_breaks_down(server: ModelServer) -> None:
    """Without waiting for the garbage collector, which comes rarely, and many runs break together."""
    server.script(*[HELLO.dropped(after=0)] * 5)
    async with OpenAIModel(settings(server.base_url, upstream_retries=0)) as model:
        gc.disable()
        tracemalloc.start()
        try:
            for _ in range(5):
                with pytest.raises(RunFailure):
                    await hear(model, prompt("x" * 900_000))
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            gc.enable()

    assert kept < 20_000_000  # the server remembers what it was asked


async def test_a_model_that_was_not_opened_says_so() -> None:
    with pytest.raises(RuntimeError, match="Open the model"):
        await hear(OpenAIModel(settings("http://127.0.0.1:1/v1")))
