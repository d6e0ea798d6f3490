"""Whatever goes wrong at the model server: how the run ends, what its client hears, what the log knows.

Each trouble is met polled and streamed. Case 61 is the rule for all of them: a stream ends with the run at rest, and
`Http.stream` checks it.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import openai
import pytest

from tests.api.checks import Event, Json, check_stream, parse
from tests.api.http import WEATHER, Http, names, outputs, path_of, read_until, text_of
from tests.fakes.model_control import RemoteModelServer
from tests.fakes.replies import Reply
from tests.stack import Stack

SORRY = {"code": "server_error", "message": "Sorry, something went wrong."}
WITHHELD = {"code": "server_error", "message": "The model's answer was withheld by a content filter."}
FAILED = ["thread.run.failed", "done"]
BEGIN = ["thread.run.created", "thread.run.queued", "thread.run.in_progress"]
OPENED = [f"thread.{of}.{event}" for of in ("run.step", "message") for event in ("created", "in_progress")]
TORN = ["thread.message.incomplete", "thread.run.step.failed", *FAILED]
TALE = Reply.text("Once upon a time")
CALL = ("get_weather", {"city": "Paris"})


@pytest.fixture(scope="module")
def hurried_url(working: Stack) -> Iterator[str]:
    """API and worker of their own: the model is asked once, and may be silent for 0.8 seconds."""
    own = {"REDIS_URL": working.environment["REDIS_URL"].removesuffix("/0") + "/3"}
    patience = {"ASSISTANTD_UPSTREAM_RETRIES": "0", "ASSISTANTD_UPSTREAM_READ_TIMEOUT": "0.8"}
    worker = working.start_worker(**own, **patience)
    with working.api(**own) as address:
        with (http := Http(address)).client:
            http.wait(http.start("Hi"), timeout=60)
        yield address
    working.stop(worker)


@pytest.fixture
def hurried(hurried_url: str, model: RemoteModelServer) -> Iterator[Http]:
    """Plain HTTP to them."""
    http = Http(hurried_url)
    with http.client:
        yield http


def stream_run(http: Http, said: str = "Hi", **fields: Json) -> list[Event]:
    body = {"assistant_id": http.assistant()["id"], **fields}
    return http.stream(f"/threads/{http.thread(said)['id']}/runs", body)


def both(http: Http, model: RemoteModelServer, reply: Reply, **fields: Json) -> tuple[Json, list[Event]]:
    """The run that meets this reply polled, and the events of one that meets it streamed."""
    model.script(reply)
    polled = http.wait(http.start("Hi", **fields))
    model.script(reply)
    return polled, stream_run(http, **fields)


def lines_of(stack: Stack, event: str, run_id: str) -> list[Json]:
    """What the workers have logged of a run under this name."""
    logged = [json.loads(line) for path in stack.folder.glob("worker-*.log") for line in path.read_text().splitlines()]
    return [line for line in logged if line["event"] == event and line.get("run_id") == run_id]


NOTHING_HEARD = {
    "500": (Reply.error(500, "boom at 10.0.0.1"), SORRY),
    "429": (Reply.error(429, "Rate limit reached"), {"code": "rate_limit_exceeded", "message": "Rate limit reached"}),
    "context": (
        Reply.error(400, "This model's maximum context length is 8192 tokens.", code="context_length_exceeded"),
        {"code": "invalid_prompt", "message": "This model's maximum context length is 8192 tokens."},
    ),
    "filtered prompt": (
        Reply.error(400, "The response was filtered.", code="content_filter"),
        {"code": "invalid_prompt", "message": "The response was filtered."},
    ),
    "image": (
        Reply.error(400, "Failed to download the image.", code="invalid_image_url"),
        {"code": "invalid_image_url", "message": "Failed to download the image."},
    ),
    "wrong key": (Reply.error(401, "Incorrect API key provided: sk-x"), SORRY),
    "no headers": (Reply.hang(), SORRY),
    "no first delta": (Reply.text("x").held("never"), SORRY),
    "connection drops": (Reply.text("x").dropped(after=0), SORRY),
    "web page": (Reply.raw(b"<html>login</html>", content_type="text/html"), SORRY),
    "web page, called a stream": (Reply.raw(b"<html>login</html>"), SORRY),
    "garbage": (Reply.raw(b"data: {nonsense\n\n"), SORRY),
    "garbage in one document": (Reply.raw(b"nonsense", content_type="application/json"), SORRY),
    "no document at all": (Reply.raw(b"{}", content_type="application/json"), SORRY),
    "an end without beginning": (Reply.raw(b"data: [DONE]\n\n"), SORRY),
    "nothing": (Reply.raw(b""), SORRY),
    "an error in place of events": (Reply.raw(b'data: {"error":{"message":"Busy","code":502}}\n\n'), SORRY),
    "an error document": (
        Reply.raw(b'{"error":{"message":"Slow","code":429}}', content_type="application/json"),
        {"code": "rate_limit_exceeded", "message": "Slow"},
    ),
}
ANSWERED = {
    "no first delta",
    "connection drops",
    "web page, called a stream",
    "garbage",
    "an end without beginning",
    "nothing",
    "an error in place of events",
}
"""Those in which an answer seemed to begin: if it took its time, its message was announced; nothing is left of it."""


@pytest.mark.parametrize(("reply", "error"), NOTHING_HEARD.values(), ids=NOTHING_HEARD)
def test_cases_44_45_and_61_a_run_of_which_nothing_was_heard_fails(
    request: pytest.FixtureRequest, hurried: Http, model: RemoteModelServer, stack: Stack, reply: Reply, error: Json
) -> None:
    polled, events = both(hurried, model, reply)

    assert (polled["status"], polled["last_error"]) == ("failed", error)
    assert polled["failed_at"] >= polled["started_at"]
    assert (polled["expires_at"], polled["completed_at"], polled["usage"]) == (None, None, None)
    assert hurried.steps(polled) == []
    assert len(hurried.messages(polled["thread_id"])) == 1
    check_stream(events)
    announced = OPENED[0] in names(events)
    assert names(events) == ([*BEGIN, *OPENED, *TORN] if announced else [*BEGIN, *FAILED])
    assert not announced or request.node.callspec.id in ANSWERED
    assert events[-2].data["last_error"] == error
    assert len(hurried.messages(events[-2].data["thread_id"])) == 1
    (line,) = lines_of(stack, "upstream_failed", polled["id"])
    assert (line["attempt"], line["retry_in"]) == (1, None)
    if line["status"] is not None or line["reason"] == "unreadable_reply":
        assert line["upstream_request_id"] == model.requests()[0]["request_id"]


MIDWAY = {
    "connection drops": TALE.held("mid", after=2).dropped(after=2),
    "silence": TALE.held("never", after=2),
    "error object": replace(TALE.held("mid", after=2).failing("Overloaded"), type="server_error"),
}


@pytest.mark.parametrize("reply", MIDWAY.values(), ids=MIDWAY)
def test_case_45_what_breaks_midway_leaves_the_message_incomplete(
    hurried: Http, model: RemoteModelServer, reply: Reply
) -> None:
    model.script(replace(reply, pieces=("Once", " upon", " a", " time")[: 2 if reply.fails_late else 4]))
    body = {"assistant_id": hurried.assistant()["id"]}

    with hurried.streaming(f"/threads/{hurried.thread('A tale?')['id']}/runs", body) as lines:
        begun = read_until(lines, "upon")
        model.release("mid")
        events = parse("\n".join([*begun, *lines, ""]))

    check_stream(events)
    assert names(events)[-4:] == TORN
    run = events[-2].data
    (message, step) = (hurried.messages(run["thread_id"])[-1], hurried.steps(run)[0])
    assert (message["status"], message["incomplete_details"]) == ("incomplete", {"reason": "run_failed"})
    assert text_of(message) == "Once upon"
    assert (step["status"], step["last_error"]) == ("failed", SORRY)
    assert (run["last_error"], hurried.get(path_of(run))) == (SORRY, run)
    hurried.post(f"/threads/{run['thread_id']}/messages", {"role": "user", "content": "Again?"})


def test_what_broke_midway_is_not_told_to_the_model(http: Http, model: RemoteModelServer) -> None:
    model.script(TALE.held("mid", after=2).dropped(after=2))
    run = http.start("A tale?")
    model.wait_for(lambda state: state["gates"].get("mid", {}).get("waiting") == 1)
    model.release("mid")
    http.wait(run, "failed")

    http.wait(http.post(f"/threads/{run['thread_id']}/runs", {"assistant_id": run["assistant_id"]}))

    assert [message["role"] for message in model.requests()[-1]["body"]["messages"]] == ["user"]


@pytest.mark.parametrize("trouble", ["drop=0", "fail=500", "fail=503 retry_after=0.1", "fail=429 retry_after=0.1"])
def test_what_passes_before_the_first_delta_leaves_no_trace(
    http: Http, model: RemoteModelServer, stack: Stack, trouble: str
) -> None:
    events = stream_run(http, f'[[{trouble} times=1 text="Here I am"]]')

    run = events[-2].data
    assert (run["status"], names(events).count("thread.run.step.created")) == ("completed", 1)
    assert text_of(http.messages(run["thread_id"])[-1]) == "Here I am"
    (line,) = lines_of(stack, "upstream_failed", run["id"])
    assert line["retry_in"] > 0
    assert line["thread_id"] == run["thread_id"]
    first, second = model.requests()
    assert first["body"] == second["body"]
    if line["status"] is not None:
        assert line["upstream_request_id"] == first["request_id"]


@pytest.mark.parametrize("status", [429, 503])
def test_case_44_a_wait_that_outlasts_the_run_is_not_begun(hasty: Http, model: RemoteModelServer, status: int) -> None:
    model.script(Reply.error(status, "Come back in a minute", retry_after=60))

    run = hasty.wait(hasty.start("Hi"), "failed")

    expected = {"code": "rate_limit_exceeded", "message": "Come back in a minute"} if status == 429 else SORRY
    assert run["last_error"] == expected
    assert run["failed_at"] <= run["created_at"] + 3
    assert model.state()["requests"] == 1


ENDLESS = {
    "a trickle of comments": TALE.held("never").beating(0.1),
    "comments after some words": TALE.held("never", after=2).beating(0.1),
    "a trickle of words": Reply.text(tokens=10_000).paced(each=0.05),
    "no answer": Reply.hang(),
}


@pytest.fixture(scope="module")
def expired() -> dict[str, list[Event]]:
    """What was told of runs whose answers do not end, once there are any: they wait together."""
    return {}


@pytest.fixture
def endless(expired: dict[str, list[Event]], hasty: Http, model: RemoteModelServer) -> dict[str, list[Event]]:
    """The events of a run for each such answer; nobody listens to the answers any more."""
    if not expired:
        with ThreadPoolExecutor(len(ENDLESS)) as pool:
            telling = {}
            for number, (name, reply) in enumerate(ENDLESS.items(), start=1):
                model.script(reply)
                telling[name] = pool.submit(stream_run, hasty)
                model.wait_for(lambda state, asked=number: state["requests"] == asked)  # type: ignore[misc]
        model.wait_for(lambda state: state["open_streams"] == 0)
        expired.update({name: told.result() for name, told in telling.items()})
    return expired


@pytest.mark.parametrize("answer", ENDLESS)
def test_an_answer_without_end_ends_when_the_run_expires(
    hasty: Http, endless: dict[str, list[Event]], answer: str
) -> None:
    run = endless[answer][-2].data

    assert run["status"] == "expired"
    for step in hasty.steps(run):
        assert (step["status"], step["last_error"]) == ("expired", None)
    for message in hasty.messages(run["thread_id"])[1:]:
        assert message["incomplete_details"] == {"reason": "run_expired"}


def test_an_answer_that_a_filter_cuts_off_is_kept_as_incomplete(http: Http, model: RemoteModelServer) -> None:
    polled, events = both(http, model, TALE.finishing("content_filter").costing(prompt=7, completion=4))

    assert (polled["status"], polled["last_error"]) == ("failed", WITHHELD)
    assert names(events)[-4:] == TORN
    message = http.messages(polled["thread_id"])[-1]
    assert (message["incomplete_details"], text_of(message)) == ({"reason": "content_filter"}, "Once upon a time")
    assert polled["usage"]["total_tokens"] == 11


def test_an_answer_of_which_a_filter_leaves_nothing_fails_too(http: Http, model: RemoteModelServer) -> None:
    polled, events = both(http, model, Reply(finish="content_filter"))

    assert (polled["status"], polled["last_error"]) == ("failed", WITHHELD)
    assert names(events)[-4:] == TORN


def test_calls_that_a_filter_cuts_off_are_never_asked_for(http: Http, model: RemoteModelServer) -> None:
    reply = Reply.text("Let me see.").calling(("get_weather", '{"city": "Par')).finishing("content_filter")

    polled, events = both(http, model, reply, tools=[WEATHER])

    assert (polled["status"], polled["last_error"]) == ("failed", WITHHELD)
    assert names(events)[-3:] == ["thread.run.step.failed", *FAILED]
    assert [(step["type"], step["status"]) for step in http.steps(polled)] == [
        ("message_creation", "completed"),
        ("tool_calls", "failed"),
    ]


@pytest.mark.parametrize("arguments", ['{"city": "Par', "Paris", '["Paris"]', '"Paris"', "null", "7"])
def test_arguments_that_are_no_object_reach_the_client_as_they_are(
    http: Http, model: RemoteModelServer, arguments: str
) -> None:
    call = Reply.tool_calls(("get_weather", arguments))
    model.script(call, Reply.text("Sorry."), call, Reply.text("Sorry."))

    waiting = http.wait(http.start("Hi", tools=[WEATHER]), "requires_action")
    events = stream_run(http, tools=[WEATHER]) if http.wait(_answered(http, waiting)) else []

    assert _calls(waiting) == _calls(events[-2].data) == [("get_weather", arguments)]
    heard = [
        part["function"]["arguments"]
        for event in events
        if event.name == "thread.run.step.delta"
        for part in event.data["delta"]["step_details"]["tool_calls"]
    ]
    assert "".join(heard) == arguments
    (said,) = [message for message in model.requests()[1]["body"]["messages"] if message["role"] == "assistant"]
    assert json.loads(said["tool_calls"][0]["function"]["arguments"]) == {"malformed_arguments": arguments}


def test_case_57_a_call_without_arguments_has_an_empty_object(http: Http, model: RemoteModelServer) -> None:
    model.script(Reply.tool_calls(("get_weather", "")), Reply.text("Sunny."))

    events = stream_run(http, tools=[WEATHER])
    waiting = events[-2].data
    done = http.wait(_answered(http, waiting))

    assert _calls(waiting) == [("get_weather", "{}")]
    assert done["status"] == "completed"
    assert model.requests()[1]["body"]["messages"][1]["tool_calls"][0]["function"]["arguments"] == "{}"


def test_a_tool_that_the_model_invents_is_answered_by_us(http: Http, model: RemoteModelServer) -> None:
    invented, answer = Reply.tool_calls(("fly", {"to": "Rome"})), Reply.text("I cannot fly.")
    model.script(invented, answer, invented, answer)

    polled, events = http.finish("Hi", tools=[WEATHER]), stream_run(http, tools=[WEATHER])

    assert [polled["status"], events[-2].data["status"]] == ["completed"] * 2
    assert "thread.run.requires_action" not in names(events)
    call, said = http.steps(polled)
    assert (call["type"], call["status"], said["type"]) == ("tool_calls", "completed", "message_creation")
    told = model.requests()[1]["body"]["messages"][-1]
    assert (told["role"], told["content"]) == ("tool", "Error: there is no tool named 'fly'. Tools: get_weather.")


def test_only_calls_that_the_client_knows_are_asked_of_it(http: Http, model: RemoteModelServer) -> None:
    model.script(Reply.tool_calls(("fly", {}), CALL), Reply.text("It rains."))

    waiting = http.wait(http.start("Hi", tools=[WEATHER]), "requires_action")
    done = http.wait(_answered(http, waiting))

    assert [name for name, _ in _calls(waiting)] == ["get_weather"]
    assert done["status"] == "completed"
    *_, flown, weather = model.requests()[1]["body"]["messages"]
    assert (flown["content"][:5], weather["content"]) == ("Error", "sunny")


def test_a_model_that_keeps_inventing_fails_the_run(http: Http, model: RemoteModelServer) -> None:
    model.script(*[Reply.tool_calls(("fly", {}))] * 20)

    events = stream_run(http, tools=[WEATHER])

    message = "The model keeps calling tools that this run does not have."
    assert events[-2].data["last_error"] == {"code": "server_error", "message": message}
    assert names(events)[-3:] == ["thread.run.step.failed", *FAILED]
    assert model.state()["requests"] == 11


def test_the_official_client_streams_over_an_invented_call(client: openai.OpenAI, model: RemoteModelServer) -> None:
    model.script(Reply.tool_calls(("fly", {"to": "Rome"})), Reply.text("I cannot fly."))
    assistant = client.beta.assistants.create(model="gpt-4o", tools=[WEATHER])  # type: ignore[list-item]
    thread = client.beta.threads.create(messages=[{"role": "user", "content": "Fly!"}])

    with client.beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id) as stream:
        text = "".join(stream.text_deltas)

    assert text == "I cannot fly."
    assert stream.current_run is not None
    assert stream.current_run.status == "completed"


def test_a_model_that_says_nothing_has_said_an_empty_text(http: Http, model: RemoteModelServer) -> None:
    polled, events = both(http, model, Reply())

    assert [polled["status"], events[-2].data["status"]] == ["completed"] * 2
    message = http.messages(polled["thread_id"])[-1]
    assert (message["status"], text_of(message)) == ("completed", "")
    assert len([event for event in events if event.name == "thread.message.delta"]) == 1


def test_an_empty_answer_disturbs_neither_client_nor_model(client: openai.OpenAI, model: RemoteModelServer) -> None:
    model.script(Reply())
    assistant = client.beta.assistants.create(model="gpt-4o")
    thread = client.beta.threads.create(messages=[{"role": "user", "content": "Hi"}])

    with client.beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id) as stream:
        (message,) = stream.get_final_messages()
    client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=20)

    (part,) = message.content
    assert part.type == "text"
    assert part.text.value == ""
    assert [said["role"] for said in model.requests()[-1]["body"]["messages"]] == ["user"]


def test_calls_with_indexes_in_any_order_are_put_in_one(http: Http, model: RemoteModelServer) -> None:
    def call(index: int, id_: str | None, name: str | None, arguments: str) -> bytes:
        fragment = {"index": index, "id": id_, "function": {"name": name, "arguments": arguments}}
        return b"data: " + json.dumps({"choices": [{"delta": {"tool_calls": [fragment]}}]}).encode() + b"\n\n"

    fragments = [
        *(call(5, "call_a", "get_weather", '{"city":'), call(2, "call_b", "get_weather", "{}")),
        *(call(5, None, None, '"Paris"}'), call(5, "call_c", "get_weather", '{"city":"Rome"}')),
    ]
    model.script(Reply.raw(b"".join(fragments) + b"data: [DONE]\n\n"))

    waiting = stream_run(http, tools=[WEATHER])[-2].data

    assert [arguments for _, arguments in _calls(waiting)] == ['{"city":"Paris"}', "{}", '{"city":"Rome"}']


def test_usage_that_the_model_server_does_not_tell_is_counted_here(http: Http, model: RemoteModelServer) -> None:
    model.script(Reply.raw(b'data: {"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n'))

    run = http.wait(http.start("Hi"))

    assert run["status"] == "completed"
    assert run["usage"]["completion_tokens"] == 1
    assert run["usage"]["total_tokens"] == run["usage"]["prompt_tokens"] + 1
    assert run["usage"]["prompt_token_details"] == {"cached_tokens": 0}


def _calls(run: Json) -> list[tuple[str, str]]:
    calls = run["required_action"]["submit_tool_outputs"]["tool_calls"]
    return [(call["function"]["name"], call["function"]["arguments"]) for call in calls]


def _answered(http: Http, run: Json) -> Json:
    return http.post(f"{path_of(run)}/submit_tool_outputs", outputs(run))
