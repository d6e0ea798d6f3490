"""How a run ends: what it left open is closed, and told, before the run's own last event.

    (run.cancelling) ─▶ message.incomplete ─▶ step.cancelled | failed | expired | completed ─▶ run.<ending>

The same for everybody who may end a run: the journal of its worker, a client's cancel, housekeeping. All of them have
the thread's row locked before they come here, and the run's row after it: the end of a run hands its thread on.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

import structlog
from sqlalchemy import Select, bindparam, cast, delete, literal, or_, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.dml import ReturningUpdate
from sqlmodel import col

from orchestrator import lifecycle, turns
from orchestrator.db import Session
from orchestrator.foreign import Json
from orchestrator.lifecycle import Attempt, Ending
from orchestrator.tables import ACTIVE, IS_UNFINISHED, Message, Run, RunStep, now
from orchestrator.wire import objects

log = structlog.get_logger(__name__)

STEP_ENDS: dict[str, str] = {
    "cancelled": "cancelled",
    "failed": "failed",
    "expired": "expired",
    "incomplete": "completed",
}
MESSAGE_REASONS: dict[str, str] = {
    "cancelled": "run_cancelled",
    "failed": "run_failed",
    "expired": "run_expired",
    "incomplete": "max_tokens",
}
Unsaid: TypeAlias = tuple[str, str]
"""The ids of a message of which no word was said, and of its step."""
LOST: Json = {"code": "server_error", "message": "The worker was lost while it wrote this; the run went on."}
LEFT: Json = {"code": "server_error", "message": "The worker was stopped while it wrote this; the run went on."}
WHOLE = {"synchronize_session": False, "populate_existing": True}


async def end(
    session: Session,
    run: Run,
    ending: Ending,
    *,
    attempt: Attempt,
    reason: str | None = None,
    unsaid: Unsaid | None = None,
    **values: Json,
) -> Run | None:
    """End a run, close what it left open, and give its thread and its place to the next of each; None if it may not end
    so (any more).

    `reason` is the open message's, if it differs from the ending's own; what is `unsaid` is not kept; `values` are
    further columns of the run.
    """
    usage = await _usage(session, run.id, unsaid)
    owned, held = not run.waiting, run.placed
    ended = await lifecycle.move(
        session, run, ending, attempt=attempt, tell=False, usage=usage, required_action=None, **values
    )
    if ended is None:
        return None
    if ending == "cancelled":
        lifecycle.told_cancelling(session, ended)
    if ending != "completed":
        await _close_messages(session, ended, reason or MESSAGE_REASONS[ending])
        await _close_steps(session, ended, STEP_ENDS[ending], ended.last_error)
        if unsaid is not None:
            await forget(session, unsaid)
    lifecycle.told(session, ended)
    if owned:
        await turns.hand_on(session, ended.project_id, ended.thread_id, freed=held)
    return ended


async def cancel(session: Session, run: Run) -> Run | None:
    """Cancel a run here and now, whoever is at it; None if it is over."""
    if run.status == "cancelling":
        return await end(session, run, "cancelled", attempt="next")
    moved = await lifecycle.move(session, run, "cancelling", attempt="next", tell=False)
    return moved and await end(session, moved, "cancelled", attempt="same")


async def stop(session: Session, run: Run) -> Json | None:
    """Cancel a run as its client asked; returns the wire object, `cancelling` as the original had it. None if it is
    over or being cancelled.

    A worker that is at it is told, keeps what the model has said so far, and ends it. A run that nobody is at ends here
    and now.
    """
    idle = run.owner is None
    moved = await lifecycle.move(session, run, "cancelling", attempt="next" if idle else "same", tell=False)
    if moved is None:
        return None
    answer = objects.run(moved)
    if idle:
        await end(session, moved, "cancelled", attempt="same")
    else:
        session.signal_cancel(run.id)
    return answer


async def unfinished(session: Session, thread_id: str) -> Sequence[Run]:
    """The thread's runs that are not over, locked: those that wait before the active one, which would else hand the
    thread on to them when it is ended.
    """
    query = select(Run).where(col(Run.thread_id) == thread_id, IS_UNFINISHED)
    query = query.order_by(col(Run.waiting).desc(), col(Run.position).desc())
    return (await session.execute(query.with_for_update(key_share=True))).scalars().all()


async def close_torn(session: Session, run: Run, why: Json = LOST, unsaid: Unsaid | None = None) -> None:
    """Close what an attempt that does not go on was writing: its message, unless it is known to be `unsaid`, is kept as
    incomplete and stays out of the prompt. `why` is its step's error.

    Calls that the model had finished stay open: they get answered, and the model is not asked for them again.
    """
    await _close_messages(session, run, "run_failed")
    await _close_steps(session, run, "failed", why, torn=True)
    if unsaid is not None:
        await forget(session, unsaid)


async def forget(session: Session, unsaid: Unsaid) -> None:
    """Take back what was opened, and closed, and never had a word: a thread keeps no empty answers."""
    message_id, step_id = unsaid
    await session.execute(delete(RunStep).where(col(RunStep.id) == step_id))
    await session.execute(delete(Message).where(col(Message.id) == message_id))


def expiry(run: Run) -> int | None:
    """The `expires_at` of a run's steps: the run's while it moves, None afterwards."""
    return run.expires_at if run.status in ACTIVE else None


async def _close_messages(session: Session, run: Run, reason: str) -> None:
    values = {"of": run.id, "why": {"reason": reason}, "at": now()}
    for message in (await session.execute(_closed_messages(), values, execution_options=WHOLE)).scalars():
        # What a lost worker said is lost with it. Its listeners have heard a part of it, though, and the Python client
        # takes every part that it has heard out of the message: without one, it raises IndexError.
        message.content = message.content or [objects.text_part("")]
        session.publish(run.id, run.attempt, "thread.message.incomplete", objects.dump(objects.message(message)))


async def _close_steps(session: Session, run: Run, status: str, error: Json | None, *, torn: bool = False) -> None:
    values: dict[str, Json] = {"of": run.id, "at": now()}
    if status == "failed":
        values["error"] = _step_error(error or LOST)
    for step in (await session.execute(_closed_steps(status, torn), values, execution_options=WHOLE)).scalars():
        data = objects.dump(objects.run_step(step, expiry(run)))
        session.publish(run.id, run.attempt, f"thread.run.step.{status}", data)


# The statements, each built once: building one costs as much as carrying it out.


@lru_cache
def _closed_messages() -> ReturningUpdate[Message]:
    torn = update(Message).where(col(Message.run_id) == bindparam("of"), col(Message.status) == "in_progress")
    values = {"status": "incomplete", "incomplete_details": bindparam("why"), "incomplete_at": bindparam("at")}
    return torn.values(values).returning(Message)


@lru_cache
def _closed_steps(status: str, torn: bool) -> ReturningUpdate[RunStep]:
    left = update(RunStep).where(col(RunStep.run_id) == bindparam("of"), col(RunStep.status) == "in_progress")
    if torn:
        no_calls = cast(col(RunStep.step_details), JSONB)["tool_calls"] == literal([], JSONB)
        left = left.where(or_(col(RunStep.type) == "message_creation", no_calls))
    values: dict[str, Json] = {"status": status, f"{status}_at": bindparam("at")}
    if status == "failed":
        values["last_error"] = bindparam("error")
    return left.values(values).returning(RunStep)


@lru_cache
def _usages() -> Select[Json]:
    return select(col(RunStep.usage)).where(col(RunStep.run_id) == bindparam("of"), col(RunStep.id) != bindparam("but"))


def _step_error(error: Json) -> Json:
    """A step knows two codes only: what is no rate limit is the server's trouble."""
    return error if error["code"] == "rate_limit_exceeded" else {**error, "code": "server_error"}


async def _usage(session: Session, run_id: str, unsaid: Unsaid | None) -> Json | None:
    asked = {"of": run_id, "but": unsaid[1] if unsaid else ""}
    parts = (await session.execute(_usages(), asked)).scalars().all()
    try:
        return objects.usage_sum(parts) if parts else None
    except (KeyError, TypeError):  # a run ends, whatever is in its rows
        log.exception("usage_unreadable", run_id=run_id)
        return None
