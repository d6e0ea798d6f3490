"""What the model reads: the thread's messages and the tool calls between them, in the order in which they happened.

    system (instructions) · user · assistant · assistant with tool_calls · tool · tool · assistant · user …

Torn and failed messages stay out; so do tool calls that were never answered (the model's protocol wants an output for
each). Text and the tool calls of the same turn become one assistant message, as the model had said them.
"""

from sqlalchemy import or_, select
from sqlmodel import col

from orchestrator.db import Session
from orchestrator.foreign import Json
from orchestrator.tables import Message, Run, RunStep

NEWEST = 1000
"""Messages that are read at most, newest first, whatever the strategy."""


async def load(session: Session, run: Run) -> list[Message | RunStep]:
    """The history of a run's thread, oldest first, as its truncation strategy allows.

    What the run itself has said and done comes on top, or it would push out the question that it answers.
    """
    newest = run.truncation_strategy.get("last_messages") or NEWEST
    by_others = or_(col(Message.run_id).is_(None), col(Message.run_id) != run.id)
    said = select(Message).where(col(Message.thread_id) == run.thread_id, by_others)
    messages = (await session.execute(said.order_by(col(Message.position).desc()).limit(newest))).scalars().all()
    own = (await session.execute(select(Message).where(col(Message.run_id) == run.id))).scalars().all()
    since = messages[-1].position if messages else 0
    done = select(RunStep).where(
        col(RunStep.thread_id) == run.thread_id, col(RunStep.type) == "tool_calls", col(RunStep.position) > since
    )
    steps = (await session.execute(done)).scalars().all()
    return sorted([*messages, *own, *steps], key=lambda item: item.position)


def render(run: Run, history: list[Message | RunStep]) -> list[Json]:
    """`history` as the messages of a chat completion."""
    rendered: list[Json] = [{"role": "system", "content": run.instructions}] if run.instructions else []
    before: Message | RunStep | None = None
    for item in history:
        if isinstance(item, Message):
            if turn := _message(item):
                rendered.append(turn)
                before = item
        elif _answered(item):
            together = isinstance(before, Message) and before.run_id == item.run_id
            _add_calls(rendered, item, rendered[-1] if together else None)
            before = item
    return rendered


def _message(message: Message) -> Json | None:
    if message.status == "in_progress" or (message.incomplete_details or {}).get("reason") == "run_failed":
        return None
    parts = [part for part in map(_part, message.content) if part]
    if not parts:
        return None
    if all(part["type"] == "text" for part in parts):
        return {"role": message.role, "content": "\n".join(part["text"] for part in parts)}
    return {"role": message.role, "content": parts}


def _part(part: Json) -> Json | None:
    match part["type"]:
        case "text":
            return {"type": "text", "text": part["text"]["value"]} if part["text"]["value"] else None
        case "image_url" | "image_file":  # a file is only named here: the journal completes it before the model is asked
            return part
        case "refusal":
            return {"type": "text", "text": part["refusal"]}
    return None


def _answered(step: RunStep) -> bool:
    calls = step.step_details.get("tool_calls", [])
    return bool(calls) and all(call["type"] == "function" and call["function"]["output"] is not None for call in calls)


def _add_calls(rendered: list[Json], step: RunStep, said: Json | None) -> None:
    asked = []
    for call in step.step_details["tool_calls"]:
        function = {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
        asked.append({"id": call["id"], "type": "function", "function": function})
    if said is not None:
        said["tool_calls"] = asked
    else:
        rendered.append({"role": "assistant", "content": None, "tool_calls": asked})
    rendered.extend(
        {"role": "tool", "tool_call_id": call["id"], "content": call["function"]["output"]}
        for call in step.step_details["tool_calls"]
    )
