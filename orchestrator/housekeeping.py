"""What nobody else would do: hand on the runs of dead workers, enqueue what was lost, end what is overdue, and give
threads that nobody owns, and places that nobody holds, to the runs that wait for them.

Every worker is ready to do it, one at a time does (an advisory lock decides). Each rule is a guarded UPDATE, so doing
it twice, or while the run's worker is alive after all, does no harm: the fence in `lifecycle` decides who may write.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import Row, String, func, or_, select, text, update
from sqlalchemy.orm import aliased
from sqlmodel import col

from orchestrator import closing, lifecycle, places, turns
from orchestrator.db import Database, Session
from orchestrator.foreign import Json
from orchestrator.presence import LOCK_CLASS
from orchestrator.tables import HOLDS_PLACE, IS_ACTIVE, IS_UNFINISHED, IS_WAITING, Run, now

log = structlog.get_logger(__name__)

BATCH = 200
"""Runs that one sweep takes of each kind; the next sweep takes the next."""
GRACE = 5
"""Seconds that a live worker has to end an overdue run by itself."""

LIVING = (
    text(
        "SELECT objid::bigint::text FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2"
        " AND classid = :lock_class AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    .bindparams(lock_class=LOCK_CLASS)
    .columns(owner=String)
)
"""The workers whose lock is held."""
ORPHAN = or_(col(Run.lease_until) < func.now(), col(Run.owner).not_in(LIVING))
"""A run whose owner is silent or dead."""
LEFT_CANCELLING = (col(Run.status) == "cancelling") & col(Run.owner).is_(None)
"""A run that was cancelled and has nobody at work who would end it."""

Ending = Callable[[Session, Run], Awaitable[Run | None]]


@dataclass(frozen=True, slots=True)
class Swept:
    """How many runs a sweep touched."""

    orphaned: int = 0
    woken: int = 0
    cancelled: int = 0
    expired: int = 0
    turns: int = 0
    placed: int = 0


async def sweep(database: Database) -> Swept:
    """Do what is due. Returns zeros if another process is at it."""
    async with database.transaction() as session:
        if not (await session.execute(select(func.pg_try_advisory_xact_lock(LOCK_CLASS, 0)))).scalar_one():
            return Swept()
        orphaned = await _release_orphans(session)
        woken = await _wake(session)
        left, overdue = await _due(session, LEFT_CANCELLING), await _due(session, _overdue())
        ownerless = await _ownerless(session)
        vacant = await places.vacancies(session)
    swept = Swept(
        orphaned,
        woken,
        cancelled=await _end_each(database, left, closing.cancel),
        expired=await _end_each(database, overdue, _expire),
        turns=await _hand_on(database, ownerless),
        placed=await _fill(database, vacant),
    )
    if swept != Swept():
        log.info(
            "swept",
            orphaned=swept.orphaned,
            woken=swept.woken,
            cancelled=swept.cancelled,
            expired=swept.expired,
            turns=swept.turns,
            placed=swept.placed,
        )
    return swept


async def _release_orphans(session: Session) -> int:
    orphans = select(col(Run.id)).where(
        IS_ACTIVE, col(Run.status).in_(("in_progress", "cancelling")), col(Run.owner).is_not(None), ORPHAN
    )
    free = update(Run).where(col(Run.id).in_(orphans.limit(BATCH).with_for_update(skip_locked=True)))
    free = free.values(owner=None, lease_until=None, wake_at=func.now()).returning(col(Run.id))
    return len((await session.execute(free, execution_options=UNSEEN)).all())


async def _wake(session: Session) -> int:
    """Enqueue again what waits for a worker: queued, or left in progress by one."""
    left = (col(Run.status) == "in_progress") & col(Run.owner).is_(None)
    waits = or_((col(Run.status) == "queued") & HOLDS_PLACE, left)
    due = select(col(Run.id)).where(IS_ACTIVE, waits, col(Run.wake_at) <= func.now(), col(Run.expires_at) > now())
    again = update(Run).where(col(Run.id).in_(due.limit(BATCH).with_for_update(skip_locked=True)))
    again = again.values(wake_at=lifecycle.wake_later()).returning(Run)
    woken = (await session.execute(again, execution_options=UNSEEN)).scalars().all()
    for run in woken:
        lifecycle.wake(session, run)
    return len(woken)


def _overdue() -> Json:
    """What is past its time; a live worker gets a moment to end it by itself."""
    return or_(col(Run.expires_at) <= now() - GRACE, (col(Run.expires_at) <= now()) & col(Run.owner).is_(None))


async def _due(session: Session, condition: Json) -> Sequence[str]:
    return (await session.execute(select(col(Run.id)).where(IS_UNFINISHED, condition).limit(BATCH))).scalars().all()


async def _end_each(database: Database, run_ids: Sequence[str], ending: Ending) -> int:
    """End runs, each in a transaction of its own: one that cannot be ended does not keep the others from it."""
    ended = 0
    for run_id in run_ids:
        try:
            async with database.transaction() as session:
                run = await _locked(session, run_id)
                ended += run is not None and await ending(session, run) is not None
        except Exception:
            log.exception("run_not_ended", run_id=run_id)
    return ended


async def _locked(session: Session, run_id: str) -> Run | None:
    """The run, and before it its thread, if nobody else is at either: the next sweep comes soon."""
    of = (await session.execute(select(col(Run.thread_id)).where(col(Run.id) == run_id))).scalar_one_or_none()
    if of is None or not await lifecycle.lock_thread(session, of, wait=False):
        return None
    query = select(Run).where(col(Run.id) == run_id, IS_UNFINISHED)
    return (await session.execute(query.with_for_update(skip_locked=True))).scalar_one_or_none()


async def _expire(session: Session, run: Run) -> Run | None:
    return await closing.end(session, run, "expired", attempt="next")


async def _ownerless(session: Session) -> Sequence[Row[str, str]]:
    """Projects and threads that runs wait for and none owns."""
    other = aliased(Run)
    owned = select(col(other.id)).where(col(other.thread_id) == col(Run.thread_id), IS_ACTIVE).exists()
    due = select(col(Run.project_id), col(Run.thread_id)).where(IS_WAITING, col(Run.expires_at) > now(), ~owned)
    return (await session.execute(due.distinct().limit(BATCH))).all()


async def _hand_on(database: Database, ownerless: Sequence[Row[str, str]]) -> int:
    handed = 0
    for project_id, thread_id in ownerless:
        async with database.transaction() as session:
            if await lifecycle.lock_thread(session, thread_id, wait=False):
                handed += await turns.hand_on(session, project_id, thread_id, freed=False)
    return handed


async def _fill(database: Database, project_ids: Sequence[str]) -> int:
    placed = 0
    for project_id in project_ids:
        async with database.transaction() as session:
            placed += await places.seek(session, project_id)
    return placed


UNSEEN = {"synchronize_session": False}
