"""What a prompt may hold and a run may cost: context windows, truncation, budgets, usage."""

from orchestrator import tokens
from tests.api.checks import Json
from tests.api.http import CALL, WEATHER, Http, outputs, path_of
from tests.fakes.model_control import RemoteModelServer
from tests.fakes.replies import Reply
from tests.stack import NARROW


def sent(model: RemoteModelServer) -> list[Json]:
    """The bodies of the requests since the test began."""
    return [request["body"] for request in model.requests()]


def test_case_47_what_is_left_of_the_prompt_budget_is_all_that_a_prompt_may_hold(
    http: Http, model: RemoteModelServer
) -> None:
    thread = http.thread(*(f"{number}: {'word ' * 50}" for number in range(10)), CALL)
    body = {"assistant_id": http.assistant()["id"], "tools": [WEATHER], "max_prompt_tokens": 500}
    model.script(Reply.tool_calls(("get_weather", {})).costing(prompt=320, completion=5))
    run = http.wait(http.post(f"/threads/{thread['id']}/runs", body), "requires_action")
    http.wait(http.post(f"{path_of(run)}/submit_tool_outputs", outputs(run)))

    first, second = ([message["content"] for message in body["messages"]] for body in sent(model))
    assert len(second) < len(first) < 11
    assert (first[0], first[-1]) == (f"0: {'word ' * 50}", CALL)
    assert second[-3:] == [CALL, None, "sunny"]


def test_case_47_a_prompt_that_the_budget_does_not_allow_is_not_sent(http: Http, model: RemoteModelServer) -> None:
    run = http.ask_for_outputs(max_prompt_tokens=256)
    run = http.wait(http.post(f"{path_of(run)}/submit_tool_outputs", outputs(run, "rain " * 300)))

    assert (run["status"], run["incomplete_details"]) == ("incomplete", {"reason": "max_prompt_tokens"})
    assert len(sent(model)) == 1
    (step,) = http.steps(run)
    assert step["step_details"]["tool_calls"][0]["function"]["output"] == "rain " * 300


def test_case_47_a_turn_that_spends_the_budget_is_written_down_and_its_calls_are_not_asked_for(
    http: Http, model: RemoteModelServer
) -> None:
    model.script(Reply.tool_calls(("get_weather", {"city": "Paris"})).costing(prompt=9, completion=300))
    run = http.finish("Weather?", tools=[WEATHER], max_completion_tokens=256)

    assert (run["status"], run["incomplete_details"]) == ("incomplete", {"reason": "max_completion_tokens"})
    assert run["required_action"] is None
    (step,) = http.steps(run)
    (call,) = step["step_details"]["tool_calls"]
    assert (step["status"], call["function"]["name"], call["function"]["output"]) == ("completed", "get_weather", None)
    assert run["usage"] == step["usage"]


SILENT = b"".join(
    b"data: " + line + b"\n\n"
    for line in (
        b'{"choices":[{"index":0,"delta":{"content":"hello world"},"finish_reason":null}]}',
        b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}',
        b"[DONE]",
    )
)
"""An answer of a model server that does not tell what it has cost."""


def test_case_53_usage_that_the_model_server_does_not_tell_is_counted(http: Http, model: RemoteModelServer) -> None:
    model.script(Reply.raw(SILENT))
    run = http.finish("hello world")

    assert run["usage"] == {
        "prompt_tokens": 8,
        "completion_tokens": 2,
        "total_tokens": 10,
        "prompt_token_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_case_50_what_overflows_is_dropped_in_the_middle(http: Http, model: RemoteModelServer) -> None:
    thread = http.thread(*(f"{number}: {'word ' * 100}" for number in range(30)), "And now?")
    assistant = http.assistant(instructions="Be kind.", model="scripted")["id"]

    run = http.wait(http.post(f"/threads/{thread['id']}/runs", {"assistant_id": assistant}))

    (body,) = sent(model)
    said = [message["content"].split(":")[0] for message in body["messages"]]
    assert run["status"] == "completed"
    assert said == ["Be kind.", "0", "1", "2", "3", *map(str, range(31 - (len(said) - 5), 30)), "And now?"]
    assert 1_000 < sum(tokens.count_messages("scripted", body["messages"])) < NARROW * 3 / 4


def test_case_50_a_message_that_alone_is_too_long_is_the_model_servers_to_refuse(
    http: Http, model: RemoteModelServer
) -> None:
    text = "This model's maximum context length is 2000 tokens."
    model.script(Reply.error(400, text, code="context_length_exceeded"))
    thread = http.thread("Hi", "word " * 5_000)

    run = http.wait(
        http.post(f"/threads/{thread['id']}/runs", {"assistant_id": http.assistant(model="scripted")["id"]})
    )

    assert [len(message["content"]) for message in sent(model)[0]["messages"]] == [25_000]
    assert (run["status"], run["last_error"]) == ("failed", {"code": "invalid_prompt", "message": text})


def test_case_51_a_runs_usage_is_the_sum_of_its_steps(http: Http, model: RemoteModelServer) -> None:
    cost = {"cached": 3, "reasoning": 2}
    model.script(
        Reply.text("Let me see.").calling(("get_weather", {})).costing(prompt=240, completion=20, **cost),
        Reply.text("It rains.").costing(prompt=270, completion=14, **cost),
    )
    run = http.ask_for_outputs("Weather?")
    before = http.steps(run)
    done = http.wait(http.post(f"{path_of(run)}/submit_tool_outputs", outputs(run)))
    steps = http.steps(done)

    assert [(step["status"], step["usage"] is None) for step in before] == [("completed", False), ("in_progress", True)]
    for key in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert done["usage"][key] == sum(step["usage"][key] for step in steps)
    assert done["usage"]["total_tokens"] == 260 + 284


def test_case_52_usage_is_null_until_the_run_is_over(http: Http, model: RemoteModelServer) -> None:
    assistant = http.assistant(tools=[WEATHER])["id"]
    body = {"assistant_id": assistant, "thread": {"messages": [{"role": "user", "content": CALL}]}}

    events = http.stream("/threads/runs", body)

    waiting = next(event.data for event in events if event.name == "thread.run.requires_action")
    told = [
        event.data["usage"] for event in events if event.name.startswith("thread.run.") and "step" not in event.name
    ]
    assert told == [None] * len(told)
    assert http.get(path_of(waiting))["usage"] is None
    assert http.wait(http.post(f"{path_of(waiting)}/submit_tool_outputs", outputs(waiting)))["usage"] is not None


def test_case_53_cached_and_reasoning_tokens_are_told(http: Http, model: RemoteModelServer) -> None:
    model.script(Reply.text("Hi.").costing(prompt=50, completion=30, cached=40, reasoning=20))
    run = http.finish("Hi")

    (step,) = http.steps(run)
    for usage in (run["usage"], step["usage"]):
        assert usage["prompt_token_details"] == {"cached_tokens": 40}
        assert usage["completion_tokens_details"] == {"reasoning_tokens": 20}
