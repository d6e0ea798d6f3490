"""The same script as three recordings of the original: the same events, and the same keys in every event's data.

The expectation is written down here. Ours may differ in two keys: the original's run steps lacked `expired_at` and
`metadata`, which its specification demands; we send the union of both.
"""

from typing import Any

from tests.api.checks import Event, Json
from tests.api.http import Http, outputs, path_of
from tests.fakes.model_control import RemoteModelServer
from tests.fakes.replies import Reply

Shape = Any


def keys(names: str) -> Shape:
    """Keys without anything below them."""
    return dict.fromkeys(names.split())


USAGE = {
    "prompt_tokens": None,
    "completion_tokens": None,
    "total_tokens": None,
    "prompt_token_details": {"cached_tokens": None},
    "completion_tokens_details": {"reasoning_tokens": None},
}
RUN = keys(
    "id object created_at assistant_id thread_id status started_at expires_at cancelled_at failed_at completed_at"
    " required_action last_error model instructions tools tool_resources metadata temperature top_p"
    " reasoning_effort max_completion_tokens max_prompt_tokens truncation_strategy incomplete_details usage"
    " response_format tool_choice parallel_tool_calls"
) | {"tools": [], "metadata": {}, "truncation_strategy": {"type": None, "last_messages": None}}
RECORDED_STEP = keys(
    "id object created_at run_id assistant_id thread_id type status cancelled_at completed_at expires_at failed_at"
    " last_error step_details usage"
)
OUR_STEP = RECORDED_STEP | {"expired_at": None, "metadata": {}}
MESSAGE_STEP = OUR_STEP | {"step_details": {"type": None, "message_creation": {"message_id": None}}}
CALLS_STEP = OUR_STEP | {"step_details": {"type": None, "tool_calls": []}}
MESSAGE = keys(
    "id object created_at assistant_id thread_id run_id status incomplete_details incomplete_at completed_at role"
    " content attachments metadata"
) | {"content": [], "attachments": [], "metadata": {}}


def text_delta(**annotations: Shape) -> Shape:
    part = {"index": None, "type": None, "text": {"value": None, **annotations}}
    return {"id": None, "object": None, "delta": {"content": [part]}}


def call_delta(**call: Shape) -> Shape:
    details = {"type": None, "tool_calls": [{"index": None, "type": None, **call}]}
    return {"id": None, "object": None, "delta": {"step_details": details}}


ANSWER: list[tuple[str, Shape]] = [
    ("thread.run.step.created", MESSAGE_STEP),
    ("thread.run.step.in_progress", MESSAGE_STEP),
    ("thread.message.created", MESSAGE),
    ("thread.message.in_progress", MESSAGE),
    ("thread.message.delta", text_delta(annotations=[])),
    ("thread.message.delta", text_delta()),
    (
        "thread.message.completed",
        MESSAGE | {"content": [{"type": None, "text": {"value": None, "annotations": []}}]},
    ),
    ("thread.run.step.completed", MESSAGE_STEP | {"usage": USAGE}),
]
FUNCTION: Shape = {
    "type": None,
    "function": {
        "name": None,
        "description": None,
        "parameters": {"type": None, "properties": {}},
        "strict": None,
    },
}
CALLING_RUN = RUN | {"tools": [FUNCTION]}
ANSWERED_CALL = {"id": None, "type": None, "function": {"name": None, "arguments": None, "output": None}}
ASKED_CALL = {"id": None, "type": None, "function": {"name": None, "arguments": None}}

TEXT_0: list[tuple[str, Shape]] = [
    ("thread.run.created", RUN),
    ("thread.run.queued", RUN),
    ("thread.run.in_progress", RUN),
    *ANSWER,
    ("thread.run.completed", RUN | {"usage": USAGE}),
    ("done", None),
]
FUNCTION_0: list[tuple[str, Shape]] = [
    ("thread.created", {"id": None, "object": None, "created_at": None, "metadata": {}, "tool_resources": None}),
    ("thread.run.created", CALLING_RUN),
    ("thread.run.queued", CALLING_RUN),
    ("thread.run.in_progress", CALLING_RUN),
    ("thread.run.step.created", CALLS_STEP),
    ("thread.run.step.in_progress", CALLS_STEP),
    ("thread.run.step.delta", call_delta(id=None, function={"name": None, "arguments": None, "output": None})),
    ("thread.run.step.delta", call_delta(function={"arguments": None})),
    (
        "thread.run.requires_action",
        CALLING_RUN | {"required_action": {"type": None, "submit_tool_outputs": {"tool_calls": [ASKED_CALL]}}},
    ),
    ("done", None),
]
FUNCTION_1: list[tuple[str, Shape]] = [
    (
        "thread.run.step.completed",
        CALLS_STEP | {"step_details": {"type": None, "tool_calls": [ANSWERED_CALL]}, "usage": USAGE},
    ),
    ("thread.run.queued", CALLING_RUN),
    ("thread.run.in_progress", CALLING_RUN),
    *ANSWER,
    ("thread.run.completed", CALLING_RUN | {"usage": USAGE}),
    ("done", None),
]


def shape(value: Json) -> Shape:
    """The keys of a value, all the way down. What tools work on is the client's own, and no part of the comparison."""
    if isinstance(value, dict):
        return {key: None if key == "tool_resources" else shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return None


def shapes(events: list[Event]) -> list[tuple[str, Shape]]:
    """Names and keys of events; deltas that follow one of the same shape count once."""
    found: list[tuple[str, Shape]] = []
    for event in events:
        told = (event.name, shape(event.data))
        if not (event.name.endswith(".delta") and found[-1] == told):
            found.append(told)
    return found


def test_a_text_run_tells_what_the_recording_text_0_tells(http: Http, model: RemoteModelServer) -> None:
    model.script(Reply.text("Hello! I'm just a program, so I don't have feelings, but I'm here and ready to help."))
    thread = http.post("/threads")
    http.post(f"/threads/{thread['id']}/messages", {"role": "user", "content": "Hello, how are you?"})

    events = http.stream(f"/threads/{thread['id']}/runs", {"assistant_id": http.assistant()["id"]})

    assert shapes(events) == TEXT_0


def test_a_function_call_tells_what_the_recordings_function_0_and_function_1_tell(
    http: Http, model: RemoteModelServer
) -> None:
    function = {"name": "get_current_weather", "description": "Gets the user's current weather"}
    assistant = http.assistant(tools=[{"type": "function", "function": function}])
    thread = {"messages": [{"role": "user", "content": "What should I wear outside right now?"}]}
    model.script(Reply.tool_calls(("get_current_weather", {})), Reply.text("Since it's warm and sunny outside, …"))

    asked = http.stream("/threads/runs", {"assistant_id": assistant["id"], "thread": thread})
    run = asked[-2].data
    told = http.stream(f"{path_of(run)}/submit_tool_outputs", outputs(run, "warm and sunny"))

    assert shapes(asked) == FUNCTION_0
    assert shapes(told) == FUNCTION_1
