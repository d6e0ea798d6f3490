"""The outcome of a run that stands still, as the frames that close a stream of which Redis has no more to tell.

The last one says how the run came to rest. Before it come the ends of the messages and steps that the listener has
heard of, and, where frames were lost, those that it has not heard of: the text that is missing as one delta. They have
no ids: who comes back behind the last id that it had hears the outcome again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeAlias

import structlog
from sqlalchemy import select
from sqlmodel import col

from orchestrator import db
from orchestrator.db import Database
from orchestrator.events import frames
from orchestrator.events.frames import RESTING
from orchestrator.events.heard import Heard, Told, untold
from orchestrator.foreign import Json
from orchestrator.tables import Message, Run, RunStep
from orchestrator.wire import objects

log = structlog.get_logger(__name__)

PATIENCE = 60.0
"""Seconds that the database may be away before silent streams end with an error: clients come back to them."""
LONGEST_LOOK = 5.0
"""Seconds that a stream is silent for the sake of one look."""

Event: TypeAlias = tuple[str, bytes]
Outcome: TypeAlias = Callable[[str, Heard, bool], Awaitable[bytes | None]]

BEGUN: dict[str, Json] = {"status": "in_progress", "completed_at": None}
MESSAGE_BEGUN: dict[str, Json] = {**BEGUN, "incomplete_at": None, "incomplete_details": None, "content": []}
STEP_BEGUN: dict[str, Json] = {
    **BEGUN,
    "cancelled_at": None,
    "expired_at": None,
    "failed_at": None,
    "last_error": None,
    "usage": None,
}


def outcome_of(database: Database) -> Outcome:
    """A function from a run's id, what a listener has heard of it, and whether all else is to be told, to the closing
    frames: None while the run moves; if it is gone, its end as the listener was to hear it, or a comment.

    None, too, while the database is away: what is told meanwhile comes from Redis. After `PATIENCE` seconds of that,
    raises what the database raised.
    """
    away: float | None = None

    async def patient(run_id: str, heard: Heard, everything: bool) -> bytes | None:
        nonlocal away
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(LONGEST_LOOK):
                found = await _outcome(database, run_id, heard, everything)
        except Exception as error:
            away = away or now
            if not db.passes(error) or now - away > PATIENCE:
                raise
            log.warning("outcome_unknown", run_id=run_id, error=db.describe(error))
            return None
        away = None
        return found

    return patient


async def _outcome(database: Database, run_id: str, heard: Heard, everything: bool) -> bytes | None:
    steps: list[RunStep] = []
    messages: dict[str, Message] = {}
    async with database.transaction() as session:
        run = (await session.execute(select(Run).where(col(Run.id) == run_id))).scalar_one_or_none()
        if run is not None and (everything or heard.open):
            query = select(RunStep).where(col(RunStep.run_id) == run_id).order_by(col(RunStep.position))
            steps = list((await session.execute(query)).scalars())
            written = select(Message).where(col(Message.run_id) == run_id)
            messages = {message.id: message for message in (await session.execute(written)).scalars()}
    if run is None:
        return heard.end or b": gone\n"
    event = f"thread.run.{run.status}"
    if event not in RESTING:
        return None
    told = [*_untold(run, steps, messages, heard, everything), (event, objects.dump(objects.run(run)))]
    return b"".join(_frame(name, data) for name, data in told)


def _untold(
    run: Run, steps: list[RunStep], messages: dict[str, Message], heard: Heard, everything: bool
) -> Iterator[Event]:
    """What the listener has to be told of the run's steps, in order."""
    known = [place for place, step in enumerate(steps) if heard.knows(step.id) or step.id == heard.answered]
    first = known[0] if known and heard.resumed else 0  # what was before the rest from which it resumed is no news
    for step in steps[first:]:
        if step.id in heard.ended or not (everything or step.id in heard.open):
            continue
        whole = objects.run_step(step, run.expires_at if run.status == "requires_action" else None)
        begins = heard.whole and not heard.knows(step.id) and step.id != heard.answered
        if begins:
            details = {"type": "tool_calls", "tool_calls": []} if step.type == "tool_calls" else step.step_details
            begun = objects.dump({**whole, **STEP_BEGUN, "expires_at": run.expires_at, "step_details": details})
            yield from (("thread.run.step.created", begun), ("thread.run.step.in_progress", begun))
        if step.type == "message_creation":
            yield from _message(messages.get(step.step_details["message_creation"]["message_id"]), heard)
        elif begins:
            yield from _calls(step)
        if step.status != "in_progress":
            yield f"thread.run.step.{step.status}", objects.dump(whole)


def _message(message: Message | None, heard: Heard) -> Iterator[Event]:
    if message is None or message.id in heard.ended:  # its client may have deleted it
        return
    whole = objects.message(message)
    if heard.whole and not heard.knows(message.id):
        begun = objects.dump({**whole, **MESSAGE_BEGUN})
        yield from (("thread.message.created", begun), ("thread.message.in_progress", begun))
    if heard.whole:
        yield from _rest(message, heard.open.get(message.id))
    if message.status != "in_progress":
        yield f"thread.message.{message.status}", objects.dump(whole)


def _rest(message: Message, told: Told | None) -> Iterator[Event]:
    """What is left of each of the message's parts, as one delta; None is told of a message that was not heard of."""
    known = told or Told()
    for index, part in enumerate(message.content):
        if part["type"] == "text":
            rest = untold(part["text"]["value"], known.text)
            if rest or told is None:
                yield "thread.message.delta", frames.message_delta(message.id, rest or "", first=not known.text.size)
        elif (rest := untold(part["refusal"], known.refusal)) or told is None:
            yield "thread.message.delta", frames.refusal_delta(message.id, index, rest or "")


def _calls(step: RunStep) -> Iterator[Event]:
    for index, call in enumerate(step.step_details["tool_calls"]):
        function = {"name": call["function"]["name"], "arguments": "", "output": None}
        for piece in (
            {"index": index, "id": call["id"], "type": "function", "function": function},
            {"index": index, "type": "function", "function": {"arguments": call["function"]["arguments"]}},
        ):
            yield "thread.run.step.delta", frames.step_delta(step.id, piece)


def _frame(event: str, data: bytes) -> bytes:
    for character, escaped in frames.LINE_ENDS:
        data = data.replace(character, escaped)
    return b"event: %s\ndata: %s\n\n" % (event.encode(), data)
