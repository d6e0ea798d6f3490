"""Submitting tool outputs: all of them at once, exactly those that were asked for, exactly once."""

import asyncio
from collections import Counter

import pytest

from tests.api.checks import Json
from tests.api.http import Http, outputs, path_of

TWO = '[[tool=get_weather:{"city":"a"} tool2=get_weather:{"city":"b"}]] [[text=Both.]]'


def ids_of(run: Json) -> list[str]:
    return [call["id"] for call in run["required_action"]["submit_tool_outputs"]["tool_calls"]]


def answers(*ids: str) -> Json:
    return {"tool_outputs": [{"tool_call_id": id_, "output": "x"} for id_ in ids]}


@pytest.mark.parametrize("wrong", ["one of two", "none", "one too many", "one twice", "a stranger"])
def test_cases_34_and_35_outputs_must_be_those_of_the_calls(http: Http, wrong: str) -> None:
    run = http.ask_for_outputs(TWO)
    one, two = ids_of(run)
    given = {
        "one of two": [one],
        "none": [],
        "one too many": [one, two, "call_more"],
        "one twice": [one, one],
        "a stranger": [one, "call_stranger"],
    }[wrong]

    error = http.refused("POST", f"{path_of(run)}/submit_tool_outputs", answers(*given))

    assert error["message"] == f"Expected tool outputs for call_ids {[one, two]}, got {given}"
    assert (error["param"], error["code"]) == (None, None)
    assert http.get(path_of(run)) == run
    assert http.steps(run)[0]["status"] == "in_progress"


def test_outputs_may_come_in_any_order_and_may_be_empty(http: Http) -> None:
    run = http.ask_for_outputs(TWO)
    one, two = ids_of(run)

    http.post(
        f"{path_of(run)}/submit_tool_outputs",
        {"tool_outputs": [{"tool_call_id": two, "output": None}, {"tool_call_id": one}]},
    )

    assert http.wait(run, "completed", "queued", "in_progress")
    done = http.wait(run)
    assert done["status"] == "completed"
    assert [call["function"]["output"] for call in http.steps(done)[0]["step_details"]["tool_calls"]] == ["", ""]


def test_a_missing_call_id_is_named(http: Http) -> None:
    run = http.ask_for_outputs()

    error = http.refused("POST", f"{path_of(run)}/submit_tool_outputs", {"tool_outputs": [{"output": "x"}]})

    assert error["message"] == "Missing required parameter: 'tool_outputs[0].tool_call_id'."
    assert error["code"] == "missing_required_parameter"


def test_case_36_a_queued_run_takes_no_outputs(lonely: Http) -> None:
    run = lonely.start("Hi")

    error = lonely.refused("POST", f"{path_of(run)}/submit_tool_outputs", answers("call_x"))

    assert error["message"] == 'Runs in status "queued" do not accept tool outputs.'


def test_case_36_a_run_in_progress_takes_no_outputs(http: Http) -> None:
    run = http.wait(http.start("[[text=never hold=busy]]"), "in_progress")

    error = http.refused("POST", f"{path_of(run)}/submit_tool_outputs", answers("call_x"))

    assert error["message"] == 'Runs in status "in_progress" do not accept tool outputs.'


async def test_case_37_of_identical_submits_exactly_one_counts(http: Http) -> None:
    run = http.ask_for_outputs(TWO)
    path, body = f"{path_of(run)}/submit_tool_outputs", outputs(run, "first", "second")

    async with http.awaited() as client:
        answers = await asyncio.gather(*[client.post(path, json=body) for _ in range(5)])
    statuses = Counter(answer.status_code for answer in answers)

    assert statuses == {200: 1, 400: 4}
    done = await asyncio.to_thread(http.wait, {**run}, "completed")
    assert [step["type"] for step in http.steps(done)] == ["tool_calls", "message_creation"]


def test_a_run_may_ask_many_times(http: Http) -> None:
    run = http.ask_for_outputs("[[tool=get_weather:{}]] " * 4 + "[[text=Enough.]]")

    for _ in range(3):
        queued = http.post(f"{path_of(run)}/submit_tool_outputs", outputs(run))
        run = http.wait(queued, "requires_action")
    done = http.wait(http.post(f"{path_of(run)}/submit_tool_outputs", outputs(run)))

    assert [step["type"] for step in http.steps(done)] == ["tool_calls"] * 4 + ["message_creation"]


def test_outputs_are_bounded_together(http: Http) -> None:
    run = http.ask_for_outputs(TWO)
    body = outputs(run, "x" * 300_000, "y" * 300_000)

    error = http.refused("POST", f"{path_of(run)}/submit_tool_outputs", body)

    assert (error["param"], error["code"]) == ("tool_outputs", "string_above_max_length")
