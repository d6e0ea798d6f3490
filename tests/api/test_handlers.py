"""The official clients' streaming helpers and event handlers, synchronous and asynchronous."""

import json
from collections import Counter
from typing import Any

import openai
from typing_extensions import override

from tests.api.checks import Json
from tests.api.http import CALL, WEATHER, Http
from tests.fakes.model_control import RemoteModelServer
from tests.fakes.replies import Reply

TOOLS: Any = [WEATHER]


class Heard(openai.AssistantEventHandler):
    """Counts the callbacks and keeps what they were given."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.said = ""
        self.arguments = ""

    @override
    def on_event(self, event: Any) -> None:
        self.calls[event.event] += 1

    @override
    def on_text_delta(self, delta: Any, snapshot: Any) -> None:
        self.said += delta.value or ""
        assert snapshot.value == self.said

    @override
    def on_text_done(self, text: Any) -> None:
        self.calls["text_done"] += 1
        assert text.value == self.said

    @override
    def on_tool_call_created(self, tool_call: Any) -> None:
        self.calls["tool_call_created"] += 1

    @override
    def on_tool_call_delta(self, delta: Any, snapshot: Any) -> None:
        self.arguments += delta.function.arguments or ""

    @override
    def on_message_done(self, message: Any) -> None:
        self.calls["message_done"] += 1

    @override
    def on_end(self) -> None:
        self.calls["end"] += 1


class AsyncHeard(openai.AsyncAssistantEventHandler):
    """The same for asynchronous clients."""

    def __init__(self) -> None:
        super().__init__()
        self.said = ""
        self.done = 0

    @override
    async def on_text_delta(self, delta: Any, snapshot: Any) -> None:
        self.said += delta.value or ""

    @override
    async def on_text_done(self, text: Any) -> None:
        self.done += text.value == self.said


def answers(run: Any, *values: str) -> list[Any]:
    calls = run.required_action.submit_tool_outputs.tool_calls
    return [{"tool_call_id": call.id, "output": text} for call, text in zip(calls, values, strict=True)]


def test_a_handler_hears_a_text_run(client: openai.OpenAI, http: Http) -> None:
    heard, thread = Heard(), http.thread('[[text="It rains today."]]')

    with client.beta.threads.runs.stream(
        thread_id=thread["id"], assistant_id=http.assistant()["id"], event_handler=heard
    ) as stream:
        stream.until_done()
        (message,) = stream.get_final_messages()
        run = stream.get_final_run()

    assert heard.said == "It rains today."
    assert (heard.calls["text_done"], heard.calls["message_done"], heard.calls["end"]) == (1, 1, 1)
    assert heard.calls["thread.message.delta"] == 3
    assert message.to_dict() == http.messages(thread["id"])[-1]
    assert (run.status, run.id) == ("completed", message.run_id)


def test_a_handler_hears_parallel_calls_and_what_follows_the_outputs(client: openai.OpenAI, http: Http) -> None:
    said = '[[tool=get_weather:{"city":"a"} tool2=get_weather:{"city":"b"}]] [[text="Both are wet."]]'
    asking, answered, thread = Heard(), Heard(), http.thread(said)

    with client.beta.threads.runs.stream(
        thread_id=thread["id"], assistant_id=http.assistant()["id"], tools=TOOLS, event_handler=asking
    ) as stream:
        stream.until_done()
    waiting = asking.current_run
    assert waiting is not None
    (step,) = stream.get_final_run_steps()
    with client.beta.threads.runs.submit_tool_outputs_stream(
        run_id=waiting.id, thread_id=thread["id"], tool_outputs=answers(waiting, "x", "y"), event_handler=answered
    ) as stream:
        stream.until_done()

    assert asking.calls["tool_call_created"] == 2
    assert asking.arguments == '{"city": "a"}{"city": "b"}'
    calls: Json = step.to_dict()["step_details"]
    assert [json.loads(call["function"]["arguments"])["city"] for call in calls["tool_calls"]] == ["a", "b"]
    asked = waiting.required_action.submit_tool_outputs.tool_calls if waiting.required_action else []
    assert [call["id"] for call in calls["tool_calls"]] == [call.id for call in asked]
    assert answered.said == "Both are wet."
    assert answered.calls["thread.run.step.completed"] == 2


def test_a_handler_hears_text_before_a_call(client: openai.OpenAI, http: Http) -> None:
    heard, thread = Heard(), http.thread('[[text="Let me see." tool=get_weather:{}]]')

    with client.beta.threads.runs.stream(
        thread_id=thread["id"], assistant_id=http.assistant()["id"], tools=TOOLS, event_handler=heard
    ) as stream:
        stream.until_done()

    assert (heard.said, heard.arguments, heard.calls["text_done"]) == ("Let me see.", "{}", 1)


def test_a_refusal_is_accumulated(client: openai.OpenAI, http: Http) -> None:
    thread = http.thread('[[refusal="I cannot do that."]]')

    with client.beta.threads.runs.stream(thread_id=thread["id"], assistant_id=http.assistant()["id"]) as stream:
        (message,) = stream.get_final_messages()

    assert message.to_dict()["content"] == [{"type": "refusal", "refusal": "I cannot do that."}]


def test_create_and_run_streams_with_its_thread_first(client: openai.OpenAI, http: Http) -> None:
    heard = Heard()

    with client.beta.threads.create_and_run_stream(
        assistant_id=http.assistant()["id"],
        thread={"messages": [{"role": "user", "content": "Hi"}]},
        event_handler=heard,
    ) as stream:
        stream.until_done()

    assert heard.said == "Hello!"
    assert (heard.calls["thread.created"], heard.calls["thread.run.completed"]) == (1, 1)


def test_create_and_run_can_be_polled(client: openai.OpenAI, http: Http) -> None:
    run = client.beta.threads.create_and_run_poll(
        assistant_id=http.assistant()["id"],
        thread={"messages": [{"role": "user", "content": CALL}]},
        tools=TOOLS,
        poll_interval_ms=20,
    )

    done = client.beta.threads.runs.submit_tool_outputs_and_poll(
        run_id=run.id, thread_id=run.thread_id, tool_outputs=answers(run, "rain"), poll_interval_ms=20
    )

    assert (run.status, done.status) == ("requires_action", "completed")


def test_raw_streams_are_iterated(client: openai.OpenAI, http: Http) -> None:
    events = client.beta.threads.runs.create(
        thread_id=http.thread("Hi")["id"], assistant_id=http.assistant()["id"], stream=True
    )

    assert [event.event for event in events][-1] == "thread.run.completed"


def test_a_failed_run_ends_its_stream_without_an_exception(
    client: openai.OpenAI, http: Http, model: RemoteModelServer
) -> None:
    model.script(Reply.error(500, headers={"x-should-retry": "false"}))

    with client.beta.threads.runs.stream(
        thread_id=http.thread("Hi")["id"], assistant_id=http.assistant()["id"]
    ) as stream:
        run = stream.get_final_run()

    assert run.last_error is not None
    assert (run.status, run.last_error.code) == ("failed", "server_error")


async def test_the_asynchronous_client_streams_a_call_and_its_answer(
    async_client: openai.AsyncOpenAI, http: Http
) -> None:
    heard, thread, runs = AsyncHeard(), http.thread(CALL), async_client.beta.threads.runs

    async with runs.stream(thread_id=thread["id"], assistant_id=http.assistant()["id"], tools=TOOLS) as stream:
        waiting = await stream.get_final_run()
    async with runs.submit_tool_outputs_stream(
        run_id=waiting.id, thread_id=thread["id"], tool_outputs=answers(waiting, "rain"), event_handler=heard
    ) as answered:
        await answered.until_done()

    assert waiting.status == "requires_action"
    assert (heard.said, heard.done) == ("It rains.", 1)
    assert heard.current_run is not None
    assert heard.current_run.status == "completed"


async def test_the_asynchronous_client_creates_runs_and_polls(async_client: openai.AsyncOpenAI, http: Http) -> None:
    threads, assistant = async_client.beta.threads, http.assistant()["id"]
    thread: Any = {"messages": [{"role": "user", "content": CALL}]}

    run = await threads.create_and_run_poll(assistant_id=assistant, thread=thread, tools=TOOLS, poll_interval_ms=20)
    done = await threads.runs.submit_tool_outputs_and_poll(
        run_id=run.id, thread_id=run.thread_id, tool_outputs=answers(run, "rain"), poll_interval_ms=20
    )
    again = await threads.runs.create_and_poll(thread_id=run.thread_id, assistant_id=assistant, poll_interval_ms=20)
    said: Any = {"messages": [{"role": "user", "content": "Hi"}]}
    async with threads.create_and_run_stream(assistant_id=assistant, thread=said) as stream:
        (message,) = await stream.get_final_messages()

    assert (done.status, again.status) == ("completed", "completed")
    assert message.role == "assistant"


async def test_a_run_can_be_cancelled_by_the_client(async_client: openai.AsyncOpenAI, http: Http) -> None:
    run = http.ask_for_outputs()

    cancelling = await async_client.beta.threads.runs.cancel(run["id"], thread_id=run["thread_id"])

    assert cancelling.status == "cancelling"
