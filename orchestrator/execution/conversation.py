"""What the model reads, as messages of a chat completion: the thread's messages and the tool calls between them.

    system (instructions) · user · assistant · assistant with tool_calls · tool · tool · assistant · user …

Torn and failed messages stay out; so do tool calls that were never answered (the model's protocol wants an output for
each). Text and the tool calls of the same turn become one assistant message, as the model had said them. What is told
only as a whole is a `Unit`: no call is ever separated from its outputs. `image_file` parts stay as they are stored.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator import tokens
from orchestrator.foreign import Json
from orchestrator.tables import Message, Run, RunStep, records

TORN = "run_failed"
"""The reason of messages that stay out: their run failed, or went on with another attempt, while they were written."""


class Said(NamedTuple):
    """A message of the thread that can be told."""

    position: int
    run_id: str | None
    role: str
    content: list[Json]


class Called(NamedTuple):
    """Tool calls of one turn, with their outputs."""

    position: int
    run_id: str
    step_details: Json


@dataclass(slots=True)
class Unit:
    """What is told together or not at all. `said`: a message of the thread is in it. `size`: its tokens, once known."""

    messages: list[Json]
    said: bool
    run_id: str | None
    bound: int = 0
    size: int | None = None


def system(run: Run) -> list[Json]:
    """The instructions, if there are any."""
    return [{"role": "system", "content": run.instructions}] if run.instructions else []


def told(history: Iterable[Message | RunStep]) -> list[Said | Called]:
    """What of `history` is told at all."""
    found: list[Said | Called] = []
    for item in history:
        if records.is_step(item):
            found.append(Called(item.position, item.run_id, item.step_details))
        elif item.status != "in_progress" and (item.incomplete_details or {}).get("reason") != TORN:
            found.append(Said(item.position, item.run_id, item.role, item.content))
    return found


def units(items: Iterable[Said | Called]) -> list[Unit]:
    """Items, oldest first, rendered, and put together where they must not be torn apart."""
    found: list[Unit] = []
    for item in items:
        if isinstance(item, Said):
            if message := _message(item):
                found.append(Unit([message], said=True, run_id=item.run_id))
        elif _answered(item):
            before = found[-1] if found else None
            if before is not None and before.run_id == item.run_id and "tool_calls" not in before.messages[0]:
                before.messages = _with_calls(before.messages[0], item)
            else:
                unit = {"role": "assistant", "content": None}
                found.append(Unit(_with_calls(unit, item), said=False, run_id=item.run_id))
    for each in found:
        messages = each.messages
        each.bound = tokens.bound(messages[0]) if len(messages) == 1 else sum(map(tokens.bound, messages))
    return found


def tell(units: Iterable[Unit]) -> list[Json]:
    """The messages of all units."""
    return [message for unit in units for message in unit.messages]


def _message(item: Said) -> Json | None:
    if len(item.content) == 1 and item.content[0]["type"] == "text":  # as nearly all are
        text = item.content[0]["text"]["value"]
        return {"role": item.role, "content": text} if text else None
    parts = [part for part in map(_part, item.content) if part]
    if not parts:
        return None
    if all(part["type"] == "text" for part in parts):
        return {"role": item.role, "content": "\n".join(part["text"] for part in parts)}
    return {"role": item.role, "content": parts}


def _part(part: Json) -> Json | None:
    match part["type"]:
        case "text":
            return {"type": "text", "text": part["text"]["value"]} if part["text"]["value"] else None
        case "image_url" | "image_file":  # a file is only named here: the journal completes it later
            return part
        case "refusal":
            return {"type": "text", "text": part["refusal"]}
    return None


def _answered(item: Called) -> bool:
    calls = item.step_details.get("tool_calls", [])
    return bool(calls) and all(call["type"] == "function" and call["function"]["output"] is not None for call in calls)


def _with_calls(said: Json, item: Called) -> list[Json]:
    asked, outputs = [], []
    for call in item.step_details["tool_calls"]:
        function = {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
        asked.append({"id": call["id"], "type": "function", "function": function})
        outputs.append({"role": "tool", "tool_call_id": call["id"], "content": call["function"]["output"]})
    return [{**said, "tool_calls": asked}, *outputs]
