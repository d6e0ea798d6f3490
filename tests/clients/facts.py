"""What conversations share, whether called or awaited: what is said, and how objects become facts.

What the model says is written into the user's message; see tests/fakes/directives.py.
"""

import json
from collections.abc import Iterable
from typing import Any

import openai
from openai.types.beta import FunctionToolParam
from openai.types.beta.threads import Message, RequiredActionFunctionToolCall, Run
from openai.types.beta.threads.run_submit_tool_outputs_params import ToolOutput
from openai.types.beta.threads.runs import RunStep

Facts = dict[str, Any]
GREET = '[[text="Hello from the model."]]'
CALL = 'Weather? [[tool=get_weather:{"city":"Paris"}]] [[text="It rains in Paris."]]'
CALL_TWICE = (
    'Weather? [[tool=get_weather:{"city":"Paris"} tool2=get_weather:{"city":"Rome"}]] [[text="Rain, and sun."]]'
)
SLOW = '[[text="One two three." first=0.4 delay=0.2]]'
POLL = 50

UNKNOWN = "asst_000000000000000000000000"


def note(names: list[str], name: str) -> None:
    """Append `name`, unless it is the last one already: how many deltas there are is nobody's promise."""
    if names[-1:] != [name]:
        names.append(name)


def text_of(message: Message) -> str:
    """The text of all parts."""
    return "".join(part.text.value for part in message.content if part.type == "text")


def calls(run: Run) -> list[RequiredActionFunctionToolCall]:
    """The calls that a run waits for."""
    return run.required_action.submit_tool_outputs.tool_calls if run.required_action else []


def cities(run: Run) -> list[str]:
    """The argument of each call."""
    return [json.loads(call.function.arguments)["city"] for call in calls(run)]


def outputs(run: Run) -> list[ToolOutput]:
    """An answer to each call: the city's weather."""
    return [
        {"tool_call_id": call.id, "output": f"weather of {city}"}
        for call, city in zip(calls(run), cities(run), strict=True)
    ]


def outputs_of(steps: Iterable[RunStep]) -> list[str | None]:
    """The outputs that steps record, one for each call."""
    found: list[str | None] = []
    for step in steps:
        if step.step_details.type == "tool_calls":
            found += [call.function.output for call in step.step_details.tool_calls if call.type == "function"]
    return found


def times(run: Run) -> Facts:
    """What a completed run says of when."""
    started = run.started_at is not None and run.started_at >= run.created_at
    return {"started": started, "completed": run.completed_at is not None, "expires_at": run.expires_at}


def described(error: openai.APIStatusError) -> Facts:
    """What programs look at in an error."""
    known = {"class": type(error).__name__, "status": error.status_code, "code": error.code, "param": error.param}
    return {**known, "type": error.type, "request_id": bool(error.request_id), "text": error.message}


def weather_tool() -> FunctionToolParam:
    """The function's definition."""
    city: dict[str, object] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": city}}
