"""Runs whose worker is gone: taken away from it, counted, handed on, and at last given up.

    in progress ──(its worker died, or its lease ran out)──▶ free ──▶ claimed by another: the next attempt
                                                              │  1st and 2nd loss: at once
                                                              │  3rd to 7th: after some 1, 2, 4, 8, 16 seconds
                                                              └─ 8th (`run_attempts`): failed

Losses are counted since the run's last checkpoint: a run that gets somewhere kills nobody. A run that kills its workers
takes those down that are with it, and each of them counts a loss as it does. The delays are drawn at random, so that
they do not all come back together: the innocent finish while the guilty waits.
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import structlog
from sqlalchemy import Float, Select, String, bindparam, case, func, literal, or_, select, text, update
from sqlmodel import col

from orchestrator import attempts, closing, roster
from orchestrator.db import Session
from orchestrator.foreign import Json
from orchestrator.presence import LOCK_CLASS
from orchestrator.tables import HOLDS_PLACE, IS_ACTIVE, IS_SUSPECT, Run, Worker

log = structlog.get_logger(__name__)

MOST = 1000
"""Runs that are taken away at once; the next sweep takes the next. To join what becomes of them costs the square of
their number: of 5,000, some five seconds, and near what a statement may take; of 1,000, a fifth of one.
"""
FAR = 10
"""No lease is that many times as long as ours: workers of two settings live side by side while one is changed."""
LIVING = (
    text(
        "SELECT objid::bigint::text FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2"
        " AND classid = :lock_class AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    .bindparams(lock_class=LOCK_CLASS)
    .columns(owner=String)
)
"""The workers whose lock is held."""
FARTHEST = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, bindparam("farthest", type_=Float))
"""What no lease can reach, unless the database's clock was put back."""
ORPHAN = or_(col(Run.lease_until) < func.now(), col(Run.lease_until) > FARTHEST, col(Run.owner).not_in(LIVING))
"""A run whose owner is silent or dead."""
DEAD = col(Worker.owner).not_in(LIVING)
"""A worker that has not left in order, and whose lock is gone."""
HELD: list[Json] = [IS_ACTIVE, text("status IN ('in_progress', 'cancelling')"), col(Run.owner).is_not(None)]
HOPELESS: list[Json] = [IS_SUSPECT, col(Run.losses) >= bindparam("most"), col(Run.owner).is_(None)]
"""A run that was lost too often in a row, and that nobody is at."""
LEFT = (col(Run.status) == "in_progress") & col(Run.owner).is_(None)
FREE = or_((col(Run.status) == "queued") & HOLDS_PLACE, LEFT)
"""A run that waits for a worker, and has a place."""


async def release(session: Session, lease: float) -> int:
    """Take runs away from workers that are dead or silent, and see to what those may have been about to claim. One
    whose lease lies `FAR` leases ahead is silent, too: what it was set by was another time.

    Returns how many were taken.
    """
    taken = (await session.execute(_release(), {"farthest": FAR * lease})).all()
    dead = await roster.bury(session, DEAD)
    if dead or taken:
        await wake_again(session)
    had = Counter(row.owner for row in taken)
    for worker in dead:
        log.warning("worker_lost", worker=worker.name, runs=had[worker.owner])
    for row in taken:
        log.warning(
            "run_taken_away", run_id=row.id, attempt=row.attempt, worker=row.worker, reason=row.why, losses=row.losses
        )
    return len(taken)


@lru_cache
def _release() -> Select[Json]:
    """One statement, however many runs a worker has left behind."""
    run = attempts.table(Run)
    why = case((run.c.owner.in_(LIVING), literal(attempts.SILENT)), else_=literal(attempts.DIED)).label("why")
    lost = select(run.c.id, run.c.owner, why).where(*HELD, ORPHAN).limit(MOST)
    left = lost.with_for_update(key_share=True, skip_locked=True).cte("lost")
    later = attempts.pause(run.c.losses)
    free = {"owner": None, "lease_until": None, "losses": run.c.losses + 1, "wake_at": func.now() + later}
    freed = update(run).where(run.c.id == left.c.id).values(free).returning(run.c.id, run.c.attempt, run.c.losses)
    freed_ = freed.cte("freed")
    closed = attempts.closed(left, left.c.why)
    told = select(freed_, left.c.owner, left.c.why, closed.c.worker)
    return told.join(left, left.c.id == freed_.c.id).outerjoin(closed, closed.c.run_id == freed_.c.id)


async def wake_again(session: Session) -> int:
    """Have runs enqueued that were: a lost worker has the wake-ups that it had fetched in advance, and so has a Redis
    that was emptied. Returns how many.

    Those that wait because they were lost too often go on waiting. A row that is locked is left out: somebody is about
    to claim it, or to end it, and may wait in turn for one that is locked here.
    """
    later: list[Json] = [col(Run.losses) <= attempts.FORGIVEN, col(Run.wake_at) > func.now()]
    due = select(col(Run.id)).where(IS_ACTIVE, FREE, *later)
    again = update(Run).where(col(Run.id).in_(due.with_for_update(key_share=True, skip_locked=True)))
    values = again.values(wake_at=func.now()).returning(col(Run.id))
    return len((await session.execute(values, execution_options={"synchronize_session": False})).all())


async def hopeless(session: Session, most: int, limit: int) -> Sequence[str]:
    """Runs that were lost `most` times in a row and that nobody is at."""
    return (await session.execute(_hopeless(), {"most": most, "limit": limit})).scalars().all()


@lru_cache
def _hopeless() -> Select[str]:
    return select(col(Run.id)).where(*HOPELESS).limit(bindparam("limit"))


async def give_up(session: Session, run: Run) -> Run | None:
    """End a run that is hopeless; None if it is over. The caller has its thread's row locked, and its own."""
    if run.status == "cancelling":
        return await closing.cancel(session, run)
    message = f"The run was given up: {run.losses} workers in a row were lost while they carried it out."
    error = {"code": "server_error", "message": message}
    ended = await closing.end(session, run, "failed", attempt="next", last_error=error)
    if ended is not None:
        log.error("run_given_up", run_id=run.id, losses=run.losses)
    return ended
