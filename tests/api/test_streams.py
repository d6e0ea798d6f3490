"""Event streams: names, order and shapes. What holds for every stream is checked in checks.py."""

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from tests.api.checks import Event, check_stream, parse
from tests.api.http import CALL, WEATHER, Http, names, outputs, path_of, read_until, text_of
from tests.fakes.model_control import RemoteModelServer
from tests.fakes.replies import Reply

BEGIN = ["thread.run.created", "thread.run.queued", "thread.run.in_progress"]
MESSAGE = [
    "thread.run.step.created",
    "thread.run.step.in_progress",
    "thread.message.created",
    "thread.message.in_progress",
    "thread.message.delta",
    "thread.message.completed",
    "thread.run.step.completed",
]
CALLS = ["thread.run.step.created", "thread.run.step.in_progress", "thread.run.step.delta"]
COMPLETED = ["thread.run.completed", "done"]
WAITING = ["thread.run.requires_action", "done"]


def stream_run(http: Http, said: str, **fields: Any) -> list[Event]:
    thread = http.thread(said)
    return http.stream(f"/threads/{thread['id']}/runs", {"assistant_id": http.assistant()["id"], **fields})


def of(events: list[Event], name: str) -> list[Any]:
    return [event.data for event in events if event.name == name]


def calls_of(events: list[Event]) -> list[Any]:
    return [
        call for data in of(events, "thread.run.step.delta") for call in data["delta"]["step_details"]["tool_calls"]
    ]


def test_case_07_a_text_run_tells_its_events_in_order(http: Http) -> None:
    events = stream_run(http, "Hi")

    assert names(events) == [*BEGIN, *MESSAGE, *COMPLETED]


def test_case_08_the_stream_is_utf8_and_its_last_frame_is_done(http: Http) -> None:
    body = {"assistant_id": http.assistant()["id"]}

    with http.streaming(f"/threads/{http.thread('Hi')['id']}/runs", body) as lines:  # checks the content type
        raw = list(lines)

    assert raw[-3:] == ["event: done", "data: [DONE]", ""]


def test_case_09_deltas_begin_empty_and_add_up_to_the_final_text(http: Http) -> None:
    events = stream_run(http, '[[text="It will not rain today."]]')

    (created,) = of(events, "thread.message.created")
    assert (created["content"], created["status"], created["completed_at"]) == ([], "in_progress", None)
    deltas = of(events, "thread.message.delta")
    first = {"index": 0, "type": "text", "text": {"value": "It", "annotations": []}}
    assert deltas[0] == {"id": created["id"], "object": "thread.message.delta", "delta": {"content": [first]}}
    (completed,) = of(events, "thread.message.completed")
    heard = "".join(delta["delta"]["content"][0]["text"]["value"] for delta in deltas)
    assert heard == text_of(completed) == "It will not rain today."
    assert completed["completed_at"] >= completed["created_at"]


def test_case_10_create_and_run_tells_the_thread_first(http: Http) -> None:
    thread = {"messages": [{"role": "user", "content": "Hi"}], "metadata": {"k": "v"}}

    events = http.stream("/threads/runs", {"assistant_id": http.assistant()["id"], "thread": thread})

    assert names(events) == ["thread.created", *BEGIN, *MESSAGE, *COMPLETED]
    assert events[0].data["id"] == events[1].data["thread_id"]
    assert events[0].data["metadata"] == {"k": "v"}


def test_case_13_a_function_call_streams_in_order(http: Http) -> None:
    events = stream_run(http, CALL, tools=[WEATHER])

    assert names(events) == [*BEGIN, *CALLS, *WAITING]
    for step in (*of(events, "thread.run.step.created"), *of(events, "thread.run.step.in_progress")):
        assert step["step_details"] == {"type": "tool_calls", "tool_calls": []}
        assert (step["status"], step["usage"]) == ("in_progress", None)
    first, *rest = calls_of(events)
    function = {"name": "get_weather", "arguments": "", "output": None}
    assert first == {"index": 0, "id": first["id"], "type": "function", "function": function}
    assert rest
    assert all(call.keys() == {"index", "type", "function"} for call in rest)
    (waiting,) = of(events, "thread.run.requires_action")
    assert waiting["usage"] is None


def test_case_14_submitting_goes_on_with_the_step_that_waited(http: Http) -> None:
    before = stream_run(http, CALL, tools=[WEATHER])
    waiting = before[-2].data

    events = http.stream(f"{path_of(waiting)}/submit_tool_outputs", outputs(waiting, "rain"))

    resumed = ["thread.run.step.completed", "thread.run.queued", "thread.run.in_progress"]
    assert names(events) == [*resumed, *MESSAGE, *COMPLETED]
    step = events[0].data
    assert step["id"] == of(before, "thread.run.step.created")[0]["id"]
    assert step["step_details"]["tool_calls"][0]["function"]["output"] == "rain"
    assert step["usage"]["total_tokens"] > 0


def test_case_55_after_outputs_there_is_no_delta_for_the_old_step(http: Http) -> None:
    before = stream_run(http, f"{CALL} [[tool=get_weather:{{}}]]", tools=[WEATHER])
    (old,) = of(before, "thread.run.step.created")
    waiting = before[-2].data

    events = http.stream(f"{path_of(waiting)}/submit_tool_outputs", outputs(waiting, "rain"))

    assert [event.name for event in events if event.data != "[DONE]" and event.data["id"] == old["id"]] == [
        "thread.run.step.completed"
    ]


def test_case_56_every_entry_of_a_delta_is_numbered_from_zero_without_gaps(http: Http) -> None:
    calls = " ".join(f"tool{number}=get_weather:{{}}" for number in range(4))
    asked = stream_run(http, f'[[text="One moment." {calls}]]', tools=[WEATHER])
    refused = stream_run(http, '[[refusal="I would rather not."]]')

    heard = [part["index"] for data in of(asked, "thread.message.delta") for part in data["delta"]["content"]]
    declined = [part["index"] for data in of(refused, "thread.message.delta") for part in data["delta"]["content"]]
    numbered = list(dict.fromkeys(call["index"] for call in calls_of(asked)))
    assert {*heard, *declined} == {0}
    assert numbered == [0, 1, 2, 3]
    assert all(type(index) is int for index in (*heard, *declined, *numbered))


@pytest.mark.parametrize("arguments", [{"city": "Paris", "days": [1, 2, 3]}, {}])
def test_cases_15_and_57_a_call_has_its_id_and_name_once_and_arguments_that_parse(
    http: Http, model: RemoteModelServer, arguments: dict[str, Any]
) -> None:
    model.script(Reply.tool_calls(("get_weather", arguments)))

    events = stream_run(http, "Weather?", tools=[WEATHER])

    calls = calls_of(events)
    assert [call["id"] for call in calls if "id" in call] == [calls[0]["id"]]
    assert [call["function"]["name"] for call in calls if "name" in call["function"]] == ["get_weather"]
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == arguments


def test_case_16_parallel_calls_share_a_step_and_are_numbered_from_zero(http: Http) -> None:
    events = stream_run(http, "[[tool=get_weather:{} tool2=get_weather:{} tool3=get_weather:{}]]", tools=[WEATHER])

    assert names(events) == [*BEGIN, *CALLS, *WAITING]
    told = [(call["index"], call["id"]) for call in calls_of(events) if "id" in call]
    assert [index for index, _ in told] == [0, 1, 2]
    asked = events[-2].data["required_action"]["submit_tool_outputs"]["tool_calls"]
    assert [call["id"] for call in asked] == [id_ for _, id_ in told]


def test_text_before_a_call_is_a_message_of_its_own(http: Http) -> None:
    events = stream_run(http, '[[text="Let me see." tool=get_weather:{}]]', tools=[WEATHER])

    assert names(events) == [*BEGIN, *MESSAGE, *CALLS, *WAITING]


def test_case_46_a_cut_off_answer_ends_the_run_as_incomplete(http: Http) -> None:
    events = stream_run(http, '[[text="Once upon a" finish=length prompt=7 completion=3]]')

    ending = ["thread.message.incomplete", "thread.run.step.completed", "thread.run.incomplete", "done"]
    assert names(events) == [*BEGIN, *MESSAGE[:5], *ending]
    (message,) = of(events, "thread.message.incomplete")
    assert message["incomplete_details"] == {"reason": "max_tokens"}
    assert text_of(message) == "Once upon a"
    run = events[-2].data
    (step,) = of(events, "thread.run.step.completed")
    assert run["incomplete_details"] == {"reason": "max_completion_tokens"}
    assert run["usage"] == step["usage"]
    assert (run["usage"]["prompt_tokens"], run["usage"]["completion_tokens"]) == (7, 3)


def test_case_45_a_model_that_breaks_down_midway_fails_message_step_and_run(
    http: Http, model: RemoteModelServer
) -> None:
    broken = Reply.text("Once upon a time").failing("Overloaded").held("mid", after=4)
    model.script(replace(broken, type="server_error"))
    body = {"assistant_id": http.assistant()["id"]}

    with http.streaming(f"/threads/{http.thread('A tale?')['id']}/runs", body) as lines:
        begun = read_until(lines, "time")
        model.release("mid")
        events = parse("\n".join([*begun, *lines, ""]))

    check_stream(events)
    ending = ["thread.message.incomplete", "thread.run.step.failed", "thread.run.failed", "done"]
    assert names(events) == [*BEGIN, *MESSAGE[:5], *ending]
    (message,) = of(events, "thread.message.incomplete")
    (step,) = of(events, "thread.run.step.failed")
    error = {"code": "server_error", "message": "Sorry, something went wrong."}
    assert message["incomplete_details"] == {"reason": "run_failed"}
    assert step["last_error"] == events[-2].data["last_error"] == error


def test_case_58_a_completed_message_has_all_the_parts_that_were_streamed(http: Http, model: RemoteModelServer) -> None:
    model.script(Reply(pieces=("Well", ", …"), refusals=("I", " would rather not.")))

    events = stream_run(http, "Hi")

    streamed = {part["index"] for data in of(events, "thread.message.delta") for part in data["delta"]["content"]}
    (completed,) = of(events, "thread.message.completed")
    assert streamed == {0, 1}
    assert completed["content"] == [
        {"type": "text", "text": {"value": "Well, …", "annotations": []}},
        {"type": "refusal", "refusal": "I would rather not."},
    ]


def test_case_62_an_event_has_one_line_of_data_and_silence_is_filled_with_comments(hasty: Http) -> None:
    body = {"assistant_id": hasty.assistant()["id"]}
    said = '[[text="one\\ntwo\\r\\n\\nthree" first=0.5 delay=0.3]]'

    with hasty.streaming(f"/threads/{hasty.thread(said)['id']}/runs", body) as lines:
        raw = list(lines)

    comments, fields = (
        [line for line in raw if line.startswith(":")],
        [line for line in raw if line[:1] not in ("", ":")],
    )
    events = [line for line in fields if not line.startswith("id: ")]
    assert comments
    assert [line.partition(": ")[0] for line in events] == ["event", "data"] * (len(events) // 2)
    for line in events[1:-1:2]:
        assert isinstance(json.loads(line.removeprefix("data: ")), dict)
    assert events[-1] == "data: [DONE]"


def test_case_63_code_points_survive_any_cut(http: Http, model: RemoteModelServer) -> None:
    said = ("é", "👩", "\u200d", "💻", "e\u0301", "\u2028", '"\\\n')
    model.script(Reply(pieces=said))

    events = stream_run(http, "Hi")

    deltas = of(events, "thread.message.delta")
    assert [delta["delta"]["content"][0]["text"]["value"] for delta in deltas] == list(said)
    assert text_of(of(events, "thread.message.completed")[0]) == "".join(said)


def test_case_65_a_delta_is_heard_while_the_model_still_speaks(http: Http, model: RemoteModelServer) -> None:
    model.script(Reply.text("one two").held("mid", after=1))
    body = {"assistant_id": http.assistant()["id"]}

    with http.streaming(f"/threads/{http.thread('Hi')['id']}/runs", body) as lines:
        read_until(lines, "one")
        model.release("mid")
        rest = list(lines)

    assert rest[-3:] == ["event: done", "data: [DONE]", ""]


def test_a_message_is_announced_when_the_model_answers_and_its_first_word_follows(
    http: Http, model: RemoteModelServer
) -> None:
    model.script(Reply.text("Hello").held("word"))
    body = {"assistant_id": http.assistant()["id"]}
    thread_id = http.thread("Hi")["id"]

    with http.streaming(f"/threads/{thread_id}/runs", body) as lines:
        begun = read_until(lines, "thread.message.in_progress")
        announced = http.messages(thread_id)[-1]
        model.release("word")
        events = parse("\n".join([*begun, *lines, ""]))

    check_stream(events)
    assert (announced["role"], announced["status"], announced["content"]) == ("assistant", "in_progress", [])
    assert names(events) == [*BEGIN, *MESSAGE, *COMPLETED]
    assert of(events, "thread.message.created") == [announced]


def test_an_announced_message_is_taken_back_if_the_model_calls_a_tool_that_it_was_not_offered(
    http: Http, model: RemoteModelServer
) -> None:
    model.script(Reply.tool_calls(("no_such_tool", {})).held("call"), Reply.text("Hello"))
    body = {"assistant_id": http.assistant()["id"]}

    with http.streaming(f"/threads/{http.thread('Hi')['id']}/runs", body) as lines:
        begun = read_until(lines, "thread.message.in_progress")
        model.release("call")
        events = parse("\n".join([*begun, *lines, ""]))

    check_stream(events)
    run = events[-2].data
    assert names(events) == [*BEGIN, *MESSAGE, *CALLS, "thread.run.step.completed", *MESSAGE, *COMPLETED]
    assert [text_of(message) for message in http.messages(run["thread_id"])] == ["Hi", "Hello"]
    assert [step["type"] for step in http.steps(run)] == ["tool_calls", "message_creation"]


def test_case_77_a_refusal_streams_and_is_kept_as_one(http: Http) -> None:
    events = stream_run(http, '[[refusal="I cannot do that."]]')

    assert names(events) == [*BEGIN, *MESSAGE, *COMPLETED]
    (completed,) = of(events, "thread.message.completed")
    assert completed["content"] == [{"type": "refusal", "refusal": "I cannot do that."}]


@pytest.mark.parametrize("seed", range(8))
def test_case_54_steps_and_messages_never_overlap(http: Http, model: RemoteModelServer, seed: int) -> None:
    chance = random.Random(seed)
    turns = [_turn(chance) for _ in range(chance.randint(1, 4))]
    model.script(*turns, Reply.text("The end."))

    events = stream_run(http, "Go", tools=[WEATHER])  # each stream is checked when it is read
    seen = len(turns)
    while events[-2].name == "thread.run.requires_action":
        waiting = events[-2].data
        events = http.stream(f"{path_of(waiting)}/submit_tool_outputs", outputs(waiting, "x"))
        seen -= 1

    assert seen == 0
    assert events[-2].name == "thread.run.completed"


def _turn(chance: random.Random) -> Reply:
    said = Reply.text(tokens=chance.randint(1, 9)) if chance.random() < 0.5 else Reply()
    return said.calling(*[("get_weather", {"city": "x" * chance.randint(0, 40)})] * chance.randint(1, 5))
