"""What the model is sent: the thread as it is, the run's settings as they were given, and nothing else."""

import json

import pytest

from tests.api.checks import Json
from tests.api.http import CALL, WEATHER, Http, outputs, path_of, read_until, text_of
from tests.api.test_threads import PIXEL
from tests.fakes.model_control import RemoteModelServer
from tests.fakes.replies import Reply


def sent(model: RemoteModelServer) -> list[Json]:
    """The bodies of the requests since the test began."""
    return [request["body"] for request in model.requests()]


def test_a_plain_run_sends_the_model_and_the_thread_and_no_more(http: Http, model: RemoteModelServer) -> None:
    http.finish("Hi")

    (body,) = sent(model)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    assert body == {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], **options}


def test_case_78_instructions_are_replaced_and_added_to(http: Http, model: RemoteModelServer) -> None:
    assistant = http.assistant(instructions="Be kind.")["id"]

    runs = [
        http.finish("Hi", assistant_id=assistant, additional_instructions="Be brief."),
        http.finish("Hi", assistant_id=assistant, instructions="Be rude."),
        http.finish("Hi", assistant_id=assistant, instructions="Be rude.", additional_instructions="Be brief."),
        http.finish("Hi", assistant_id=assistant),
    ]

    prompts = [body["messages"][0] for body in sent(model)]
    expected = ["Be kind.\n\nBe brief.", "Be rude.", "Be rude.\n\nBe brief.", "Be kind."]
    assert prompts == [{"role": "system", "content": text} for text in expected]
    assert [run["instructions"] for run in runs] == expected


def test_case_79_additional_messages_are_kept_before_the_run_in_order(http: Http, model: RemoteModelServer) -> None:
    run = http.finish(
        "one",
        additional_messages=[
            {"role": "assistant", "content": "two", "metadata": {"k": "v"}},
            {"role": "user", "content": "three"},
        ],
    )

    (body,) = sent(model)
    said = [("user", "one"), ("assistant", "two"), ("user", "three")]
    assert [(message["role"], message["content"]) for message in body["messages"]] == said
    kept = http.messages(run["thread_id"])
    assert [message["role"] for message in kept] == ["user", "assistant", "user", "assistant"]
    assert (kept[1]["metadata"], kept[1]["run_id"]) == ({"k": "v"}, None)


def test_calls_and_results_of_this_and_of_earlier_runs_are_told_in_their_order(
    http: Http, model: RemoteModelServer
) -> None:
    said = '[[text="Let me see." tool=get_weather:{"city":"a"} tool2=get_weather:{"city":"b"}]] [[text="Rain."]]'
    run = http.ask_for_outputs(said)
    asked = run["required_action"]["submit_tool_outputs"]["tool_calls"]
    http.wait(http.post(f"{path_of(run)}/submit_tool_outputs", outputs(run, "wet", "dry")))
    http.post(f"/threads/{run['thread_id']}/messages", {"role": "user", "content": "Thanks"})
    body = {"assistant_id": run["assistant_id"], "instructions": "Be kind."}
    http.wait(http.post(f"/threads/{run['thread_id']}/runs", body))

    first, second, third = (request["messages"] for request in sent(model))
    question = {"role": "user", "content": said}
    calls = {"role": "assistant", "content": "Let me see.", "tool_calls": asked}
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": text}
        for call, text in zip(asked, ("wet", "dry"), strict=True)
    ]
    assert first == [question]
    assert second == [question, calls, *results]
    assert third == [
        {"role": "system", "content": "Be kind."},
        *second,
        {"role": "assistant", "content": "Rain."},
        {"role": "user", "content": "Thanks"},
    ]


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}], ids=["required", "named"]
)
def test_case_82_a_forced_choice_holds_for_the_first_turn_only(
    http: Http, model: RemoteModelServer, choice: Json
) -> None:
    run = http.ask_for_outputs(CALL, tool_choice=choice)
    done = http.wait(http.post(f"{path_of(run)}/submit_tool_outputs", outputs(run)))

    assert [body.get("tool_choice") for body in sent(model)] == [choice, None]
    assert all(body["tools"] for body in sent(model))
    assert done["tool_choice"] == choice


def test_case_82_none_holds_for_every_turn(http: Http, model: RemoteModelServer) -> None:
    http.finish("Hi", tools=[WEATHER], tool_choice="none")

    assert [body["tool_choice"] for body in sent(model)] == ["none"]


def test_case_83_parallel_calls_can_be_switched_off(http: Http, model: RemoteModelServer) -> None:
    http.finish("Hi", tools=[WEATHER], parallel_tool_calls=False)
    http.finish("Hi", tools=[WEATHER])

    assert [body.get("parallel_tool_calls") for body in sent(model)] == [False, None]


def test_settings_reach_the_model_even_where_they_are_zero(http: Http, model: RemoteModelServer) -> None:
    format_ = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}, "strict": True}}
    settings = {"temperature": 0, "top_p": 0, "response_format": format_, "reasoning_effort": "low"}

    http.finish("Hi", **settings, model="o3-mini", max_completion_tokens=300)

    (body,) = sent(model)
    assert {name: body[name] for name in settings} == settings
    assert (body["model"], body["max_completion_tokens"]) == ("o3-mini", 300)


def test_case_47_budgets_count_all_turns_of_a_run(http: Http, model: RemoteModelServer) -> None:
    said = "[[tool=get_weather:{} prompt=200 completion=300]] [[tool=get_weather:{} prompt=300 completion=1]]"
    run = http.ask_for_outputs(said, max_prompt_tokens=500, max_completion_tokens=1000)
    run = http.wait(http.post(f"{path_of(run)}/submit_tool_outputs", outputs(run)))

    assert [body["max_completion_tokens"] for body in sent(model)] == [1000, 700]
    assert (run["status"], run["incomplete_details"]) == ("incomplete", {"reason": "max_prompt_tokens"})
    assert run["usage"]["prompt_tokens"] == 500


def test_case_49_the_newest_messages_are_all_that_is_seen(http: Http, model: RemoteModelServer) -> None:
    thread = http.thread("one", "two", "three")
    body = {
        "assistant_id": http.assistant(instructions="Be kind.")["id"],
        "truncation_strategy": {"type": "last_messages", "last_messages": 2},
    }
    http.wait(http.post(f"/threads/{thread['id']}/runs", body))

    (request,) = sent(model)
    assert [message["content"] for message in request["messages"]] == ["Be kind.", "two", "three"]


def test_case_121_deleted_messages_are_not_sent(http: Http, model: RemoteModelServer) -> None:
    thread = http.thread("secret", "Hi")
    http.delete(f"/threads/{thread['id']}/messages/{http.messages(thread['id'])[0]['id']}")

    http.wait(http.post(f"/threads/{thread['id']}/runs", {"assistant_id": http.assistant()["id"]}))

    assert [body["messages"] for body in sent(model)] == [[{"role": "user", "content": "Hi"}]]


def test_images_are_passed_on(http: Http, model: RemoteModelServer) -> None:
    image = {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}}
    content = [{"type": "text", "text": "Look:"}, image]
    thread = http.post("/threads", {"messages": [{"role": "user", "content": content}]})

    http.wait(http.post(f"/threads/{thread['id']}/runs", {"assistant_id": http.assistant()["id"]}))

    assert sent(model)[0]["messages"] == [{"role": "user", "content": content}]


def test_what_a_failed_run_had_begun_to_say_stays_out(http: Http, model: RemoteModelServer) -> None:
    model.script(Reply.text("Half a").failing("Overloaded").held("mid", after=2))
    run = http.start("Tell")
    model.wait_for(lambda state: state["gates"].get("mid", {}).get("waiting") == 1)
    with http.streaming(f"{path_of(run)}/events") as lines:
        read_until(lines, " a")
        model.release("mid")
    assert http.wait(run)["status"] == "failed"

    http.wait(http.post(f"/threads/{run['thread_id']}/runs", {"assistant_id": run["assistant_id"]}))

    assert [message["content"] for message in sent(model)[-1]["messages"]] == ["Tell"]
    assert [message["status"] for message in http.messages(run["thread_id"])] == [
        "completed",
        "incomplete",
        "completed",
    ]


def test_calls_that_nobody_answered_stay_out(http: Http, model: RemoteModelServer) -> None:
    run = http.ask_for_outputs("Weather? [[tool=get_weather:{}]]")
    http.post(f"{path_of(run)}/cancel")
    http.wait(run, "cancelled")
    model.script(Reply.text("Hello again."))
    http.wait(http.post(f"/threads/{run['thread_id']}/runs", {"assistant_id": run["assistant_id"]}))

    assert [message["role"] for message in sent(model)[-1]["messages"]] == ["user"]


def test_case_83_a_second_call_is_dropped_before_anybody_hears_of_it(http: Http, model: RemoteModelServer) -> None:
    two = (("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Rome"}))
    model.script(Reply.tool_calls(*two), Reply.tool_calls(*two))
    assistant = http.assistant(tools=[WEATHER])["id"]
    path = f"/threads/{http.thread('Weather?')['id']}/runs"

    events = http.stream(path, {"assistant_id": assistant, "parallel_tool_calls": False})

    waiting = next(event.data for event in events if event.name == "thread.run.requires_action")
    (call,) = waiting["required_action"]["submit_tool_outputs"]["tool_calls"]
    assert call["function"]["arguments"] == '{"city": "Paris"}'
    assert not any("Rome" in str(event.data) for event in events)
    again = http.wait(http.post(f"{path_of(waiting)}/submit_tool_outputs", outputs(waiting)), "requires_action")
    assert len(again["required_action"]["submit_tool_outputs"]["tool_calls"]) == 1


def test_case_82_calls_are_not_heard_where_none_are_allowed(http: Http, model: RemoteModelServer) -> None:
    model.script(Reply.text("No need.").calling(("get_weather", {})))
    run = http.finish("Hi", tools=[WEATHER], tool_choice="none")

    (step,) = http.steps(run)
    assert (run["status"], step["type"]) == ("completed", "message_creation")
    assert text_of(http.messages(run["thread_id"])[-1]) == "No need."


@pytest.mark.parametrize(
    "format_",
    [
        {"type": "json_object"},
        {"type": "text"},
        {
            "type": "json_schema",
            "json_schema": {
                "name": "weather",
                "schema": {
                    "type": "object",
                    "required": ["zone", "city"],
                    "properties": {"zone": {"type": "string"}, "city": {"type": "string"}},
                    "additionalProperties": False,
                },
                "strict": True,
            },
        },
    ],
    ids=lambda format_: format_["type"],
)
def test_case_84_a_response_format_is_kept_and_passed_on_word_for_word(
    http: Http, model: RemoteModelServer, format_: Json
) -> None:
    model.script(Reply.text('{"zone": "CET", "city": "Paris"}'))
    run = http.finish("Where?", response_format=format_)

    (body,) = sent(model)
    assert json.dumps(run["response_format"]) == json.dumps(format_)
    assert json.dumps(body["response_format"]) == json.dumps(format_)
    answer = json.loads(text_of(http.messages(run["thread_id"])[-1]))
    assert list(answer) == ["zone", "city"]
