"""Writes a reply down while it is heard: opens messages and steps, tells every piece, closes what the turn completes.

    step.created · step.in_progress · message.created · message.in_progress · message.delta … message.completed ·
    step.completed step.created · step.in_progress · step.delta (id, name) · step.delta (arguments) …

Steps follow each other strictly, a call's id and name are told once, indexes count from 0 without gaps: clients of the
original break on anything else. Nothing here changes the reply: a line may have to be written again, and whoever wrote
it notes in the reply what it resulted in.
"""

from typing import TypeAlias

from sqlalchemy import update
from sqlmodel import col

from orchestrator import ids
from orchestrator.closing import Unsaid, expiry, forget
from orchestrator.db import Session
from orchestrator.events import frames
from orchestrator.execution.reply import OpenCall, Reply
from orchestrator.foreign import Json
from orchestrator.model import Delta, RefusalDelta, TextDelta, ToolCallDelta, Usage
from orchestrator.tables import Message, Run, RunStep, now
from orchestrator.tables.records import changed
from orchestrator.wire import objects

Opened: TypeAlias = tuple[Message, RunStep]
"""A reply's message and the step that tells of it."""


def publish_message(session: Session, run: Run, event: str, message: Message) -> None:
    """After commit: `thread.message.<event>`."""
    session.publish(run.id, run.attempt, f"thread.message.{event}", objects.dump(objects.message(message)))


def publish_step(session: Session, run: Run, event: str, step: RunStep) -> None:
    """After commit: `thread.run.step.<event>`."""
    session.publish(run.id, run.attempt, f"thread.run.step.{event}", objects.dump(objects.run_step(step, expiry(run))))


async def open_message(session: Session, run: Run, message_id: str | None = None, step_id: str | None = None) -> Opened:
    """Open a reply's message and its step, under these ids if they are given."""
    message = Message(
        id=message_id or ids.new("msg_"),
        thread_id=run.thread_id,
        assistant_id=run.assistant_id,
        run_id=run.id,
        role="assistant",
        status="in_progress",
    )
    step = _step(run, step_id, "message_creation", {"message_id": message.id})
    session.add_all([message, step])
    await session.flush()
    for event in ("created", "in_progress"):
        publish_step(session, run, event, step)
    for event in ("created", "in_progress"):
        publish_message(session, run, event, message)
    return message, step


async def open_calls(
    session: Session, run: Run, reply: Reply, step_id: str | None = None, unsaid: Unsaid | None = None
) -> tuple[Message | None, RunStep]:
    """Open the step of the reply's tool calls; a message that came before them is complete, and not kept if `unsaid`.

    What a turn costs is known once, at its end: the calls' step carries it all, the message's step nothing.
    """
    message = reply.message
    if message is not None:
        message, _ = await complete_message(session, run, reply, Usage())
    if unsaid is not None:
        await forget(session, unsaid)
        message = None
    step = _step(run, step_id, "tool_calls", [])
    session.add(step)
    await session.flush()
    for event in ("created", "in_progress"):
        publish_step(session, run, event, step)
    return message, step


def turn(reply: Reply) -> dict[str, Json]:
    """What is known of the step of a turn that ended in calls. Those that were cut off are nobody's to answer."""
    calls = [] if reply.reason in ("length", "content_filter") else [call.wire() for call in reply.calls]
    return {"step_details": {"type": "tool_calls", "tool_calls": calls}, "usage": objects.usage(reply.usage)}


async def complete_message(session: Session, run: Run, reply: Reply, usage: Usage) -> Opened:
    """Close the reply's message and its step as completed."""
    if reply.message is None or reply.step is None:
        raise RuntimeError("no message is open")
    message = await save_message(session, reply.message, reply.content(), status="completed", completed_at=now())
    step = await complete_step(session, reply.step, usage=objects.usage(usage))
    publish_message(session, run, "completed", message)
    publish_step(session, run, "completed", step)
    return message, step


async def save_message(session: Session, message: Message, content: list[Json], **values: Json) -> Message:
    """Store what the message says so far. One that a client has deleted meanwhile stays so; its events go on."""
    values["content"] = content
    query = update(Message).where(col(Message.id) == message.id).values(values).returning(Message)
    stored = (await session.execute(query, execution_options=FRESH)).scalar_one_or_none()
    return changed(message, **values) if stored is None else stored


def with_outputs(step: RunStep, outputs: dict[str, str]) -> dict[str, Json]:
    """What is known of a turn's step once these of its calls are answered; the last one completes it."""
    calls = [_with_output(known, outputs) for known in step.step_details["tool_calls"]]
    known = {"step_details": {"type": "tool_calls", "tool_calls": calls}}
    if any(call["function"]["output"] is None for call in calls):
        return known
    return {**known, "status": "completed", "completed_at": now()}


async def save_outputs(session: Session, run: Run, step: RunStep, known: dict[str, Json]) -> RunStep:
    """Store what is known of the step; see `with_outputs`."""
    saved = await save_step(session, step, **known)
    if saved.status == "completed":
        publish_step(session, run, "completed", saved)
    return saved


async def save_unfinished(session: Session, reply: Reply | None) -> Unsaid | None:
    """Store what was heard of a reply, if any was, whose run ends here, and what it cost if that is known. Returns what
    is open without a word.
    """
    if reply is None:
        return None
    if reply.message is not None:
        await save_message(session, reply.message, reply.content())
    if reply.step is not None and reply.finished is not None:
        await save_step(session, reply.step, usage=objects.usage(reply.usage))
    return reply.unsaid


async def save_step(session: Session, step: RunStep, **values: Json) -> RunStep:
    """Store what is known of the step."""
    query = update(RunStep).where(col(RunStep.id) == step.id).values(values).returning(RunStep)
    return (await session.execute(query, execution_options=FRESH)).scalar_one()


async def complete_step(session: Session, step: RunStep, **values: Json) -> RunStep:
    """Close the step as completed."""
    return await save_step(session, step, status="completed", completed_at=now(), **values)


def leading_texts(deltas: list[Delta], start: int) -> list[str]:
    """The texts from `start` on, up to something else."""
    texts: list[str] = []
    for delta in deltas[start:] if start else deltas:
        if type(delta) is not TextDelta:
            break
        texts.append(delta.text)
    return texts


def hear_text(reply: Reply, message: Message, delta: TextDelta | RefusalDelta) -> bytes:
    """Add a piece of text or refusal to the reply; returns the data of its event."""
    if isinstance(delta, TextDelta) and not reply.refusal:  # what follows a refusal belongs to it: parts are not mixed
        data = frames.message_delta(message.id, delta.text, first=not reply.text)
        reply.text.append(delta.text)
        return data
    data = frames.refusal_delta(message.id, 1 if reply.text else 0, delta.text)
    reply.refusal.append(delta.text)
    return data


def hear_call(reply: Reply, step: RunStep, delta: ToolCallDelta) -> list[bytes]:
    """Add a piece of a tool call to the reply; returns the data of its events."""
    told: list[Json] = []
    if delta.index == len(reply.calls):
        reply.calls.append(OpenCall(delta.id or "", delta.name or ""))
        function = {"name": delta.name, "arguments": "", "output": None}
        told.append({"index": delta.index, "id": delta.id, "type": "function", "function": function})
    if delta.arguments:
        reply.calls[delta.index].arguments.append(delta.arguments)
        told.append({"index": delta.index, "type": "function", "function": {"arguments": delta.arguments}})
    return [frames.step_delta(step.id, call) for call in told]


def _with_output(call: Json, outputs: dict[str, str]) -> Json:
    """A call as it was written down, with its output if that is among these."""
    output = outputs.get(call["id"], call["function"]["output"])
    return {**call, "function": {**call["function"], "output": output}}


def _step(run: Run, step_id: str | None, kind: str, details: Json) -> RunStep:
    return RunStep(
        id=step_id or ids.new("step_"),
        run_id=run.id,
        thread_id=run.thread_id,
        assistant_id=run.assistant_id,
        type=kind,
        step_details={"type": kind, kind: details},
    )


FRESH = {"synchronize_session": False, "populate_existing": True}
