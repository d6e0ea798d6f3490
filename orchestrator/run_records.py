"""What operators are told of runs: facts and attempts, and nothing of what was said."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import select
from sqlmodel import col

from orchestrator import attempts
from orchestrator.db import Session
from orchestrator.foreign import Json
from orchestrator.tables import IS_UNFINISHED, Run, Thread, Worker

TIMES = ("created_at", "started_at", "expires_at", "completed_at", "cancelled_at", "failed_at")
FACTS = ("model", *TIMES, "usage", "last_error", "incomplete_details", "attempt", "losses")


@dataclass(frozen=True, slots=True)
class Record:
    """A run, and the attempts at it, oldest first."""

    facts: dict[str, Json]
    attempts: list[dict[str, Json]]


async def show(session: Session, run_id: str) -> Record | None:
    """All that is known of a run; None if there is none of that id."""
    query = select(Run, col(Thread.project_id), col(Worker.name)).join(Thread, col(Thread.id) == col(Run.thread_id))
    query = query.outerjoin(Worker, col(Worker.owner) == col(Run.owner)).where(col(Run.id) == run_id)
    row = (await session.execute(query)).one_or_none()
    if row is None:
        return None
    run, project_id, worker = row
    of = {"run": run.id, "status": run.status, "thread": run.thread_id, "project": project_id}
    facts = of | {"assistant": run.assistant_id, "worker": worker, "waits_for": _waits_for(run)}
    facts |= {name: _fact(run, name) for name in FACTS}
    tried = [attempt.model_dump(exclude={"run_id"}) for attempt in await attempts.of(session, run_id)]
    return Record(facts, tried)


async def unfinished(session: Session, status: str | None, limit: int) -> Sequence[dict[str, Json]]:
    """Runs that are not over, or those of them with the status; what expires first comes first."""
    shown = (Run.id, Run.status, Run.attempt, Run.losses, Run.expires_at, Run.thread_id)
    query = select(*map(col, shown), col(Worker.name).label("worker")).where(IS_UNFINISHED)
    query = query.outerjoin_from(Run, Worker, col(Worker.owner) == col(Run.owner))
    if status is not None:
        query = query.where(col(Run.status) == status)
    rows = (await session.execute(query.order_by(col(Run.expires_at), col(Run.id)).limit(limit))).mappings()
    return [{**row, "expires_at": _time(row["expires_at"])} for row in rows]


def _waits_for(run: Run) -> str | None:
    if run.waiting:
        return "its turn on the thread"
    return "a place" if run.status == "queued" and not run.placed else None


def _fact(run: Run, name: str) -> Json:
    value = getattr(run, name)
    return _time(value) if name in TIMES and value is not None else value


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
