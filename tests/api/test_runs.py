"""Runs: their life as pollers see it, their settings, their steps and what they cost."""

import time

import openai
import pytest

from tests.api.checks import Json
from tests.api.http import CALL, WEATHER, Http, outputs, path_of, text_of
from tests.fakes.model_control import RemoteModelServer
from tests.fakes.replies import Reply


def test_case_04_a_new_run_is_queued_with_defaults(lonely: Http) -> None:
    run = lonely.start("Hi")

    assert run["id"].startswith("run_")
    assert (run["status"], run["started_at"], run["usage"]) == ("queued", None, None)
    assert run["expires_at"] == run["created_at"] + 600
    assert run["truncation_strategy"] == {"type": "auto", "last_messages": None}
    assert (run["tool_choice"], run["parallel_tool_calls"], run["response_format"]) == ("auto", True, "auto")
    assert (run["temperature"], run["top_p"], run["tool_resources"], run["metadata"]) == (1.0, 1.0, {}, {})
    ends = ("cancelled_at", "failed_at", "completed_at", "required_action", "last_error", "incomplete_details")
    assert all(run[name] is None for name in ends)
    assert lonely.get(path_of(run)) == run


def test_case_05_a_run_is_queued_then_in_progress_then_completed(http: Http, model: RemoteModelServer) -> None:
    model.script(Reply.text("Hello!").held("talk"))
    queued = http.start("Hi")

    working = http.wait(queued, "in_progress")
    model.release("talk")
    done = http.wait(working)

    assert queued["status"] == "queued"
    assert (working["usage"], working["expires_at"]) == (None, queued["expires_at"])
    assert working["started_at"] >= queued["created_at"]
    assert (done["status"], done["expires_at"]) == ("completed", None)
    assert done["completed_at"] >= done["started_at"] == working["started_at"]
    assert done["usage"]["total_tokens"] == done["usage"]["prompt_tokens"] + done["usage"]["completion_tokens"] > 0


def test_case_06_the_answer_comes_before_the_question_in_the_list(http: Http) -> None:
    run = http.finish("Hi")

    answer, question = http.get(f"/threads/{run['thread_id']}/messages")["data"]

    assert (answer["role"], answer["run_id"], answer["assistant_id"]) == ("assistant", run["id"], run["assistant_id"])
    assert (question["role"], question["run_id"], question["assistant_id"]) == ("user", None, None)
    assert text_of(answer) == "Hello!"


def test_cases_11_and_52_a_function_call_asks_for_its_output(http: Http) -> None:
    run = http.ask_for_outputs()

    action = run["required_action"]
    (call,) = action["submit_tool_outputs"]["tool_calls"]
    assert action["type"] == "submit_tool_outputs"
    function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    assert call == {"id": call["id"], "type": "function", "function": function}
    assert call["id"].startswith("call_")
    assert run["usage"] is None
    (step,) = http.steps(run)
    assert (step["type"], step["status"], step["usage"]) == ("tool_calls", "in_progress", None)
    assert step["step_details"]["tool_calls"] == [{**call, "function": {**function, "output": None}}]


def test_cases_12_32_and_33_outputs_queue_the_run_again_and_its_clock_goes_on(http: Http) -> None:
    waiting = http.ask_for_outputs()
    while time.time() < waiting["started_at"] + 1:  # so that another start shows
        time.sleep(0.02)

    queued = http.post(f"{path_of(waiting)}/submit_tool_outputs", outputs(waiting, "rain"))
    done = http.wait(queued)

    assert (queued["status"], queued["required_action"]) == ("queued", None)
    assert queued["started_at"] == waiting["started_at"]
    assert queued["expires_at"] == waiting["expires_at"] == waiting["created_at"] + 600
    assert done["status"] == "completed"
    assert done["started_at"] > waiting["started_at"]
    assert text_of(http.messages(done["thread_id"])[-1]) == "It rains."
    call_step, answer_step = http.steps(done)
    assert call_step["step_details"]["tool_calls"][0]["function"]["output"] == "rain"
    assert (call_step["status"], answer_step["type"]) == ("completed", "message_creation")


def test_cases_51_and_53_a_run_costs_the_sum_of_its_steps_with_all_details(http: Http) -> None:
    said = (
        "[[tool=get_weather:{} prompt=260 completion=12 cached=200 reasoning=3]]"
        " [[text=ok prompt=284 completion=42 cached=256 reasoning=4]]"
    )
    waiting = http.ask_for_outputs(said)
    done = http.wait(http.post(f"{path_of(waiting)}/submit_tool_outputs", outputs(waiting)))

    assert done["usage"] == {
        "prompt_tokens": 544,
        "completion_tokens": 54,
        "total_tokens": 598,
        "prompt_token_details": {"cached_tokens": 456},
        "completion_tokens_details": {"reasoning_tokens": 7},
    }
    steps = http.steps(done)
    assert [step["usage"]["total_tokens"] for step in steps] == [272, 326]


def test_cases_80_and_84_a_runs_settings_show_and_leave_the_assistant_alone(http: Http) -> None:
    assistant = http.assistant(instructions="Be kind.", temperature=0.5)
    schema = {"name": "s", "strict": True, "schema": {"type": "object", "properties": {}}}
    overrides: Json = {
        "model": "gpt-4o-mini",
        "tools": [
            {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}},
        ],
        "temperature": 0,
        "top_p": 0.25,
        "response_format": {"type": "json_schema", "json_schema": schema},
        "metadata": {"k": "v"},
        "reasoning_effort": "low",
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
        "max_prompt_tokens": 256,
        "max_completion_tokens": 1000,
        "truncation_strategy": {"type": "last_messages", "last_messages": 3},
        "instructions": "Be brief.",
    }

    run = http.start("Hi", assistant_id=assistant["id"], **overrides)

    assert {name: run[name] for name in overrides} == overrides
    assert http.get(f"/assistants/{assistant['id']}") == assistant


def test_case_81_a_change_of_the_assistant_does_not_reach_its_runs(lonely: Http) -> None:
    assistant = lonely.assistant(instructions="Be kind.", temperature=0.5, tools=[WEATHER])
    run = lonely.start("Hi", assistant_id=assistant["id"])

    changes = {"instructions": "Be rude.", "temperature": 1, "model": "o3-mini", "tools": []}
    lonely.post(f"/assistants/{assistant['id']}", changes)

    assert lonely.get(path_of(run)) == run
    assert (run["instructions"], run["temperature"], run["model"]) == ("Be kind.", 0.5, "gpt-4o")


def test_case_127_only_the_metadata_of_a_run_changes(http: Http) -> None:
    run = http.finish("Hi", metadata={"a": "1"})

    changed = http.post(path_of(run), {"metadata": {"b": "2"}})
    error = http.refused("POST", path_of(run), {"temperature": 0.1})

    assert changed == {**run, "metadata": {"b": "2"}} == http.get(path_of(run))
    assert (error["param"], error["code"]) == ("temperature", "unknown_parameter")


def test_case_89_a_step_says_when_it_would_have_expired_until_its_run_is_over(http: Http) -> None:
    waiting = http.ask_for_outputs()
    (open_step,) = http.steps(waiting)
    done = http.wait(http.post(f"{path_of(waiting)}/submit_tool_outputs", outputs(waiting)))
    closed = http.steps(done)

    assert open_step["expires_at"] == waiting["expires_at"]
    assert [step["expires_at"] for step in closed] == [None, None]
    assert all(step["completed_at"] >= step["created_at"] for step in closed)
    for step in (open_step, *closed):
        assert [step[name] for name in ("expired_at", "cancelled_at", "failed_at", "last_error")] == [None] * 4
        assert step["metadata"] == {}
        assert step["assistant_id"] == done["assistant_id"]


@pytest.mark.parametrize("field", ["max_prompt_tokens", "max_completion_tokens"])
def test_case_48_budgets_begin_at_256_tokens(http: Http, field: str) -> None:
    runs = f"/threads/{http.thread('Hi')['id']}/runs"

    error = http.refused("POST", runs, {"assistant_id": http.assistant()["id"], field: 255})

    expected = f"Invalid '{field}': integer below minimum value. Expected a value >= 256, but got 255 instead."
    assert (error["message"], error["code"]) == (expected, "integer_below_min_value")


def test_case_44_a_rate_limited_model_fails_the_run_and_not_the_request(http: Http, model: RemoteModelServer) -> None:
    said = "Rate limit reached for gpt-4o in organization org-x on tokens per min."
    model.script(Reply.error(429, said, code="rate_limit_exceeded", headers={"x-should-retry": "false"}))

    run = http.wait(http.start("Hi"))

    assert (run["status"], run["last_error"]) == ("failed", {"code": "rate_limit_exceeded", "message": said})
    assert run["failed_at"] >= run["started_at"]
    assert (run["completed_at"], run["expires_at"]) == (None, None)


def test_case_44_an_exhausted_quota_reads_as_the_original_said_it(http: Http) -> None:
    said = "You exceeded your current quota, please check your plan and billing details."

    run = http.finish(f'[[fail=429 code=insufficient_quota message="{said}"]]')

    assert run["last_error"] == {"code": "rate_limit_exceeded", "message": said}


def test_case_45_a_broken_model_fails_the_run_with_a_general_text(http: Http, model: RemoteModelServer) -> None:
    model.script(Reply.error(500, "secret trouble at 10.0.0.1", headers={"x-should-retry": "false"}))

    run = http.wait(http.start("Hi"))

    assert run["last_error"] == {"code": "server_error", "message": "Sorry, something went wrong."}


def test_a_model_that_recovers_is_asked_again_without_a_trace(http: Http) -> None:
    run = http.finish("[[fail=500 times=1]]")

    assert (run["status"], len(http.steps(run))) == ("completed", 1)


def test_case_36_and_40_of_runs_that_are_over(http: Http) -> None:
    for said in ("Hi", "[[fail=400]]", "[[text=x finish=length]]"):
        run = http.finish(said)

        submitted = http.refused("POST", f"{path_of(run)}/submit_tool_outputs", {"tool_outputs": []})
        cancelled = http.refused("POST", f"{path_of(run)}/cancel")

        assert submitted["message"] == f'Runs in status "{run["status"]}" do not accept tool outputs.'
        assert cancelled["message"] == f"Cannot cancel run with status '{run['status']}'."
        assert http.get(path_of(run)) == run


def test_a_polled_run_through_the_official_client(client: openai.OpenAI) -> None:
    assistant = client.beta.assistants.create(model="gpt-4o", tools=[WEATHER])  # type: ignore[list-item]
    thread = client.beta.threads.create(messages=[{"role": "user", "content": CALL}])

    run = client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=20)
    assert run.required_action is not None
    (call,) = run.required_action.submit_tool_outputs.tool_calls
    run = client.beta.threads.runs.submit_tool_outputs_and_poll(
        run_id=run.id,
        thread_id=thread.id,
        tool_outputs=[{"tool_call_id": call.id, "output": "rain"}],
        poll_interval_ms=20,
    )

    assert run.status == "completed"
    steps = list(client.beta.threads.runs.steps.list(run.id, thread_id=thread.id))
    assert [step.type for step in steps] == ["message_creation", "tool_calls"]
