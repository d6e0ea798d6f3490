"""What is known of each attempt at a run: which worker had it, from when to when, and why that ended.

    claim ──▶ open ──▶ completed | requires_action | failed | cancelled | expired | incomplete      it came to rest
                  └──▶ handed over | database away | gave up                                        its worker let it go
                  └──▶ worker died | lease ran out                                                  it was taken away

An attempt is opened and closed by the very statements that move the run: nothing is known of a move that did not
happen, and no move costs a second trip to Postgres. Numbers have gaps: whoever moves a run from outside opens an
attempt, too, which nobody carries (see `lifecycle`).
"""

import os
import socket
from collections.abc import Sequence
from typing import Literal

from sqlalchemy import CTE, Table, func, insert, literal, select, update
from sqlmodel import SQLModel, col

from orchestrator.db import Session
from orchestrator.foreign import Json
from orchestrator.tables import Run, RunAttempt

Leaving = Literal["handed over", "database away", "gave up"]
"""Why a worker lets a run go that has not come to rest."""
DIED, SILENT = "worker died", "lease ran out"
"""Why a run was taken from its worker."""

HOST = socket.gethostname()


def worker() -> str:
    """This process, as operators find it."""
    return f"{HOST}:{os.getpid()}"


def opened(claimed: CTE, name: Json) -> CTE:
    """Open the attempts of the runs that a statement claims."""
    columns = ("run_id", "attempt", "worker", "started_at")
    rows = select(claimed.c.id, claimed.c.attempt, name, func.now())
    return insert(table(RunAttempt)).from_select(columns, rows).returning(literal(1)).cte("opened")


def closed(left: CTE, outcome: Json, detail: Json = None) -> CTE:
    """Close the attempts of the runs that a statement moves away from their workers; returns whose they were."""
    mine = (col(RunAttempt.run_id) == left.c.id) & col(RunAttempt.ended_at).is_(None)
    ends = {"ended_at": func.now(), "outcome": outcome, "detail": detail}
    gone = update(table(RunAttempt)).where(mine).values(ends)
    return gone.returning(col(RunAttempt.run_id), col(RunAttempt.worker)).cte("closed")


async def of(session: Session, run_id: str) -> Sequence[RunAttempt]:
    """The attempts at a run, oldest first."""
    query = select(RunAttempt).where(col(RunAttempt.run_id) == run_id).order_by(col(RunAttempt.attempt))
    return (await session.execute(query)).scalars().all()


async def before(session: Session, run: Run) -> str | None:
    """The worker of the attempt before the run's own, if it is known."""
    query = select(col(RunAttempt.worker)).where(col(RunAttempt.run_id) == run.id)
    query = query.where(col(RunAttempt.attempt) < run.attempt).order_by(col(RunAttempt.attempt).desc()).limit(1)
    return (await session.execute(query)).scalar_one_or_none()


def table(of: type[SQLModel]) -> Table:
    """What SQLAlchemy's core knows of it."""
    found: Table = of.__table__  # type: ignore[attr-defined]
    return found
