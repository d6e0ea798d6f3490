"""Case 148: what is passed on to the model server, streams and errors included, and what is changed on the way."""

import asyncio
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest

from tests.api.checks import Json
from tests.api.conftest import make_client
from tests.api.http import Http
from tests.fakes.embeddings import vector
from tests.fakes.model_control import RemoteModelServer
from tests.fakes.replies import Reply
from tests.stack import API_KEY, Stack

HI: Json = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
STREAM: Json = {**HI, "stream": True}


def frames(response: httpx2.Response) -> list[str]:
    """The data of a stream's frames."""
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    blocks = response.text.split("\n\n")
    assert blocks.pop() == ""
    return [block.removeprefix("data: ") for block in blocks if not block.startswith(":")]


def ask(http: Http, body: Json = HI, path: str = "/chat/completions", **headers: str) -> httpx2.Response:
    return http.client.post(path, json=body, headers=headers)


def error_of(response: httpx2.Response, status: int) -> Json:
    assert response.status_code == status, response.text
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    return body["error"]


def test_case_148_a_completion_streams_through_the_official_client(
    client: openai.OpenAI, model: RemoteModelServer
) -> None:
    model.script(Reply.text("Hello you there").costing(prompt=9, completion=3, cached=4))

    stream = client.chat.completions.create(
        model="gpt-4o",
        messages=[{"role": "user", "content": "Hi"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)

    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == "Hello you there"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 12
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "stop"


def test_case_148_the_stream_has_frames_without_names_and_ends_with_done(http: Http) -> None:
    found = frames(ask(http, {**STREAM, "stream_options": {"include_usage": True}}))

    assert found[-1] == "[DONE]"
    assert json.loads(found[-2])["usage"]["total_tokens"] > 0
    assert all(json.loads(data)["object"] == "chat.completion.chunk" for data in found[:-1])


def test_case_148_each_piece_is_sent_when_it_is_heard(http: Http, model: RemoteModelServer) -> None:
    model.script(Reply.text("one two").held("mid", after=1))

    with http.client.stream("POST", "/chat/completions", json=STREAM) as response:
        lines = response.iter_lines()
        next(line for line in lines if '"one"' in line)
        model.release("mid")
        rest = list(lines)

    assert rest[-2:] == ["data: [DONE]", ""]


def test_a_whole_completion_comes_as_the_model_server_wrote_it(client: openai.OpenAI, model: RemoteModelServer) -> None:
    model.script(Reply.text("Let me see.").calling(("get_weather", {"city": "Paris"})))

    answer = client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])

    message = answer.choices[0].message
    assert message.content == "Let me see."
    assert [call.function.name for call in message.tool_calls or () if call.type == "function"] == ["get_weather"]
    assert answer.usage is not None


def test_bodies_go_on_as_they_came_and_nothing_else_of_the_client_does(http: Http, model: RemoteModelServer) -> None:
    body = {**HI, "logit_bias": {"50256": -100}, "seed": 7, "unheard_of": [None, {"a": 0.1}], "store": True}

    response = ask(http, body, cookie="session=secret", **{"x-custom": "secret", "x-request-id": "trace-1"})

    (asked,) = model.requests()
    assert response.status_code == 200
    assert asked["body"] == body
    assert asked["headers"]["authorization"] == "Bearer sk-upstream"
    assert asked["headers"]["x-client-request-id"] == "trace-1"
    assert "secret" not in str(asked["headers"])
    assert API_KEY not in str(asked)


def test_the_advice_about_limits_is_passed_back(http: Http, model: RemoteModelServer) -> None:
    limits = {"x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-tokens": "6ms"}
    model.script(Reply(pieces=("Hi",), headers=tuple(limits.items())))

    response = ask(http)

    assert {name: response.headers[name] for name in limits} == limits
    assert response.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("path", ["/chat/completions", "/embeddings"])
@pytest.mark.parametrize("authorization", [None, "Bearer sk-wrong"])
def test_without_a_key_of_ours_nothing_is_passed_on(
    http: Http, model: RemoteModelServer, path: str, authorization: str | None
) -> None:
    del http.client.headers["Authorization"]

    response = ask(http, HI, path, **({"Authorization": authorization} if authorization else {}))

    error_of(response, 401)
    assert model.requests() == []


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"messages": []}, "model", "missing_required_parameter"),
        ({"model": 7}, "model", "invalid_type"),
        ({"model": ""}, "model", "empty_string"),
        ({"model": "m", "stream": "yes"}, "stream", "invalid_type"),
        ([], None, "invalid_type"),
    ],
)
def test_what_names_no_model_is_refused_here(
    http: Http, model: RemoteModelServer, body: Json, param: str | None, code: str
) -> None:
    error = error_of(ask(http, body), 400)

    assert (error["param"], error["code"]) == (param, code)
    assert model.requests() == []


def test_what_else_is_wrong_is_told_by_the_model_server(http: Http) -> None:
    error = error_of(ask(http, {"model": "gpt-4o"}), 400)

    assert error["param"] == "messages"


def test_a_rate_limit_comes_with_its_sentence_type_and_wait(client: openai.OpenAI, model: RemoteModelServer) -> None:
    said = "Rate limit reached for gpt-4o on tokens per min."
    model.script(Reply.error(429, said, code="rate_limit_exceeded", type="tokens", retry_after=7))

    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])

    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "tokens")
    assert said in caught.value.message
    assert caught.value.response.headers["retry-after"] == "7"


def test_an_unknown_model_is_not_found(client: openai.OpenAI, model: RemoteModelServer) -> None:
    model.script(Reply.error(404, "The model `x` does not exist or you do not have access", code="model_not_found"))

    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="x", messages=[{"role": "user", "content": "Hi"}])

    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_no_address_and_no_key_of_the_model_server_is_told(http: Http, model: RemoteModelServer) -> None:
    address = model.base_url.removeprefix("http://").removesuffix("/v1")
    said = f"{address} says no to sk-upstream at http://10.0.0.7/x"
    late = Reply.text("one").failing(said, code="invalid_prompt")
    model.script(Reply.error(400, said), Reply.error(500, said), late)

    refused, failed, streamed = ask(http), ask(http), ask(http, STREAM)

    assert error_of(refused, 400)["message"] == "[hidden] says no to [hidden] at [hidden]"
    assert error_of(failed, 500)["type"] == "server_error"
    told = json.loads(frames(streamed)[-1])["error"]
    assert (told["message"], told["code"]) == ("[hidden] says no to [hidden] at [hidden]", "invalid_prompt")
    assert address not in failed.text


def test_a_key_that_the_model_server_refuses_is_not_the_clients_fault(http: Http, model: RemoteModelServer) -> None:
    model.script(Reply.error(401, "Incorrect API key provided: sk-upst***.", code="invalid_api_key"))

    response = ask(http)

    error = error_of(response, 503)
    assert (error["type"], error["code"]) == ("server_error", None)
    assert response.headers["x-should-retry"] == "false"
    assert "sk-" not in response.text


@pytest.mark.parametrize(
    "reply",
    [
        Reply.raw(b"<html>login</html>", content_type="text/html"),
        Reply.raw(b"not JSON", content_type="application/json"),
        Reply.raw(b"{}", content_type="application/json"),
        Reply.error(302, headers={"Location": "http://127.0.0.1:1/"}),
    ],
    ids=["a web page", "no JSON", "no answer", "a redirect"],
)
@pytest.mark.parametrize("path", ["/chat/completions", "/embeddings"])
def test_what_is_no_answer_is_a_server_error(http: Http, model: RemoteModelServer, reply: Reply, path: str) -> None:
    model.script(reply)

    response = ask(http, {**HI, "input": "x"}, path)

    assert error_of(response, 503)["type"] == "server_error"
    assert response.headers["retry-after"] == "1"


def test_an_error_that_comes_with_200_is_an_error(http: Http, model: RemoteModelServer) -> None:
    body = b'{"error":{"message":"Slow down","code":"rate_limit_exceeded","type":"requests"}}'
    model.script(Reply.raw(body, content_type="application/json"))

    assert error_of(ask(http), 429)["message"] == "Slow down"


def test_a_stream_that_breaks_off_ends_with_an_error_that_clients_raise(
    client: openai.OpenAI, model: RemoteModelServer
) -> None:
    model.script(Reply.text("one two three").held("mid", after=2).dropped(after=2))
    stream = client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}], stream=True)

    heard = [next(stream).choices[0].delta.content for _ in range(3)]
    model.release("mid")
    with pytest.raises(openai.APIError, match="broke off") as caught:
        list(stream)

    assert heard == ["", "one", " two"]
    assert caught.value.type == "server_error"


@pytest.mark.parametrize("streams", [True, False])
async def test_a_client_that_leaves_ends_the_request_upstream(
    http: Http, model: RemoteModelServer, streams: bool
) -> None:
    model.script(Reply.text("one two").held("mid"))

    async with http.awaited() as client:
        asking = asyncio.create_task(client.post("/chat/completions", json={**HI, "stream": streams}))
        await asyncio.to_thread(model.wait_for, lambda state: state["open_streams"] == 1)
        asking.cancel()
        await asyncio.wait([asking])

    await asyncio.to_thread(model.wait_for, lambda state: (state["disconnects"], state["open_streams"]) == (1, 0))


def test_comments_of_the_model_server_keep_the_line_alive(http: Http, model: RemoteModelServer) -> None:
    model.script(Reply.text("one two").held("mid", after=1).beating(0.02))

    with http.client.stream("POST", "/chat/completions", json=STREAM) as response:
        lines = response.iter_lines()
        next(line for line in lines if line == ": keep-alive")
        model.release("mid")
        assert list(lines)[-2:] == ["data: [DONE]", ""]


def test_no_connection_of_the_database_waits_for_the_model(working: Stack, model: RemoteModelServer) -> None:
    model.script(*[Reply.text("one two").held("mid")] * 20)

    with (
        working.api(ASSISTANTD_DATABASE_POOL_SIZE="1", ASSISTANTD_DATABASE_QUEUE="2") as base_url,
        (http := Http(base_url)).client,
        ThreadPoolExecutor(20) as pool,
    ):
        asked = [pool.submit(ask, http, body) for body in [HI, STREAM] * 10]
        model.wait_for(lambda state: state["open_streams"] == 20)
        listed = http.client.get("/assistants")
        model.release("mid")

    assert listed.status_code == 200
    assert [response.result().status_code for response in asked] == [200] * 20


def test_the_log_knows_what_went_wrong_and_the_upstreams_name_for_it(
    http: Http, model: RemoteModelServer, stack: Stack
) -> None:
    model.script(Reply.error(400, "You said: I am Ada", code="invalid_prompt"))

    response = ask(http)

    logged = [line for path in stack.folder.glob("api-*.log") for line in path.read_text().splitlines()]
    (line,) = [line for line in logged if response.headers["x-request-id"] in line and "gateway_failed" in line]
    facts = json.loads(line)
    assert (facts["status"], facts["code"], facts["model"]) == (400, "invalid_prompt", "gpt-4o")
    assert facts["upstream_request_id"] == model.requests()[0]["request_id"]
    assert not [line for line in logged if "Ada" in line]


@pytest.fixture(scope="module")
def narrow_url(working: Stack) -> Iterator[str]:
    """An API process that passes on one request at a time, and none for long."""
    limits = {"GATEWAY_CONCURRENCY": "1", "GATEWAY_TIMEOUT": "3", "UPSTREAM_READ_TIMEOUT": "0.7"}
    with working.api(**{f"ASSISTANTD_{name}": value for name, value in limits.items()}) as base_url:
        yield base_url


@pytest.fixture
def narrow(narrow_url: str, model: RemoteModelServer) -> Iterator[Http]:
    """Plain HTTP to it."""
    http = Http(narrow_url)
    with http.client:
        yield http


def test_too_many_at_once_are_told_to_come_back(narrow: Http, model: RemoteModelServer) -> None:
    model.script(Reply.text("one two").held("mid", after=1).beating(0.05))

    with narrow.client.stream("POST", "/chat/completions", json=STREAM) as first:
        lines = first.iter_lines()
        next(lines)
        second = ask(narrow)
        model.release("mid")
        list(lines)

    assert error_of(second, 503)["type"] == "server_error"
    assert second.headers["retry-after"] == "1"
    deadline = time.monotonic() + 60
    while (third := ask(narrow)).status_code == 503 and time.monotonic() < deadline:
        time.sleep(0.02)  # the place is free a moment after the end has been sent
    assert third.status_code == 200


@pytest.mark.parametrize("reply", [Reply.hang(), Reply.text("one two").held("never")], ids=["headers", "body"])
def test_a_silent_model_server_is_not_waited_for_for_ever(narrow: Http, model: RemoteModelServer, reply: Reply) -> None:
    model.script(reply)

    assert error_of(ask(narrow), 503)["message"] == "The model server does not answer."


@pytest.mark.parametrize("beat", [0.0, 0.1], ids=["silence", "a trickle without end"])
def test_a_stream_that_does_not_end_is_ended(narrow: Http, model: RemoteModelServer, beat: float) -> None:
    model.script(Reply.text("one two").held("never", after=1).beating(beat))

    found = frames(ask(narrow, STREAM))

    assert json.loads(found[-1])["error"]["message"] == "The model server broke off its answer."
    model.wait_for(lambda state: state["open_streams"] == 0)


@pytest.mark.parametrize("name", ["text-embedding-3-small", "numbers-only", "base64-only", "no-base64"])
def test_case_148_embeddings_come_in_the_encoding_that_was_asked_for(http: Http, name: str) -> None:
    body = {"model": name, "input": ["one", "two"]}

    unsaid = http.post("/embeddings", body)
    numbers = http.post("/embeddings", {**body, "encoding_format": "float"})
    packed = http.post("/embeddings", {**body, "encoding_format": "base64"})

    assert [item["embedding"] for item in numbers["data"]] == [vector("one"), vector("two")]
    assert unsaid["data"] == numbers["data"]
    assert all(isinstance(item["embedding"], str) for item in packed["data"])
    assert packed["usage"] == numbers["usage"]


@pytest.mark.parametrize("name", ["text-embedding-3-small", "numbers-only", "base64-only", "no-base64"])
def test_case_148_embeddings_through_the_official_client(client: openai.OpenAI, name: str) -> None:
    default = client.embeddings.create(model=name, input="one")
    numbers = client.embeddings.create(model=name, input=["one"], encoding_format="float", dimensions=4)

    assert default.data[0].embedding == vector("one")
    assert numbers.data[0].embedding == vector("one", 4)


def test_a_wrong_encoding_is_refused(http: Http) -> None:
    error = error_of(ask(http, {"model": "m", "input": "x", "encoding_format": "hex"}, "/embeddings"), 400)

    assert (error["param"], error["code"]) == ("encoding_format", "invalid_value")


def test_embeddings_that_are_refused_are_refused_with_the_servers_words(http: Http) -> None:
    assert error_of(ask(http, {"model": "m"}, "/embeddings"), 400)["param"] == "input"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/chat/completions", 405),
        ("GET", "/chat/completions/chatcmpl-1", 404),
        ("POST", "/chat/completions/chatcmpl-1", 404),
        ("DELETE", "/chat/completions/chatcmpl-1", 404),
        ("GET", "/chat/completions/chatcmpl-1/messages", 404),
    ],
)
def test_stored_completions_do_not_exist(http: Http, method: str, path: str, status: int) -> None:
    error_of(http.client.request(method, path), status)


def test_a_large_body_is_refused_and_a_large_answer_is_not(http: Http, model: RemoteModelServer) -> None:
    error_of(ask(http, {**HI, "x": "y" * 17_000_000}), 413)
    model.script(Reply(pieces=("z" * 3_000_000,)))

    assert len(ask(http).json()["choices"][0]["message"]["content"]) == 3_000_000


def test_an_installation_without_a_model_server_says_so(working: Stack) -> None:
    with (
        working.api(UPSTREAM_BASE_URL="") as base_url,
        make_client(base_url) as client,
        pytest.raises(openai.InternalServerError),
    ):
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])
