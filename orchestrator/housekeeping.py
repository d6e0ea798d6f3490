"""What nobody else would do: hand on the runs of dead workers, enqueue what was lost, end what is overdue, and give
threads that nobody owns, and places that nobody holds, to the runs that wait for them.

Every worker is ready to do it, one at a time does (an advisory lock decides). Each rule is a guarded UPDATE, so doing
it twice, or while the run's worker is alive after all, does no harm: the fence in `lifecycle` decides who may write.
Nearly always there is nothing to do: one statement finds that out, where a sweep takes a dozen (`look`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import lru_cache

import structlog
from sqlalchemy import Row, Select, bindparam, case, exists, func, or_, select, text, update
from sqlalchemy.orm import aliased
from sqlalchemy.sql.dml import ReturningUpdate
from sqlmodel import col

from orchestrator import closing, db, lifecycle, mending, orphans, places, turns, written
from orchestrator.db import Database, Session
from orchestrator.direct import Direct
from orchestrator.foreign import Json
from orchestrator.presence import LOCK_CLASS
from orchestrator.settings import RUN_ATTEMPTS, RUN_LEASE
from orchestrator.tables import EPOCH, IS_ACTIVE, IS_UNFINISHED, IS_WAITING, Run, RunAttempt, Worker

log = structlog.get_logger(__name__)

BATCH = 200
"""Runs that one sweep ends of each kind; the next sweep takes the next."""
WAKE_UPS = 2000
"""Runs that one sweep enqueues."""
SILENCE = 10.0
"""Seconds that a frozen process may hold locks in the middle of a statement, at most."""
SOON = 1.0
"""Seconds that the first wake-up of a run which was taken from its worker may stay unanswered: that may lie with a
worker that hangs, too. Each further one gets as long as the run has been left by then: if all workers are busy, Redis
would be filled with wake-ups.
"""
GRACE = 5
"""Seconds that a live worker has to end an overdue run by itself."""

_UNEXPIRED = col(Run.expires_at) > EPOCH
_OTHER = aliased(Run)
_OWNED = select(col(_OTHER.id)).where(col(_OTHER.thread_id) == col(Run.thread_id), IS_ACTIVE).exists()
_IS_TIME = or_(
    col(Run.wake_at) <= func.now(), col(Run.wake_at) > func.now() + timedelta(seconds=2 * lifecycle.PATIENCE)
)
"""A wake-up is due; one that lies too far ahead was set before the database's clock was put back."""

GONE: list[Json] = [IS_UNFINISHED, col(Run.status) == "cancelling", col(Run.owner).is_(None)]
"""A run that was cancelled and has nobody at work who would end it."""
OVERDUE: list[Json] = [
    IS_UNFINISHED,
    or_(col(Run.expires_at) <= EPOCH - GRACE, (col(Run.expires_at) <= EPOCH) & col(Run.owner).is_(None)),
]
"""What is past its time; a live worker gets a moment to end it by itself."""
WAKEABLE: list[Json] = [IS_ACTIVE, orphans.FREE, _IS_TIME, _UNEXPIRED, col(Run.losses) < bindparam("attempts")]
"""A run that waits for a worker, and whose wake-up was not answered."""
OWNERLESS: list[Json] = [IS_WAITING, _UNEXPIRED, ~_OWNED]
"""A run that waits for its thread, which none owns."""

Ending = Callable[[Session, Run], Awaitable[Run | None]]
Judge = Callable[[Session], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Swept:
    """How many runs a sweep touched."""

    orphaned: int = 0
    woken: int = 0
    cancelled: int = 0
    expired: int = 0
    turns: int = 0
    placed: int = 0
    given_up: int = 0


@dataclass(frozen=True, slots=True)
class _Due:
    """What has to end or to be handed on, whoever does it."""

    left: Sequence[str]
    overdue: Sequence[str]
    ownerless: Json
    vacant: Json


async def sweep(
    database: Database, attempts: int = RUN_ATTEMPTS, lease: float = RUN_LEASE, may_judge: Judge | None = None
) -> Swept:
    """Do what is due. Returns zeros if another process is at it.

    `attempts` may be lost in a row before a run is; `lease` is what workers renew theirs to; `may_judge` says whether
    who is silent may be taken for dead at this moment (see `presence`).
    """
    async with database.transaction() as session:
        await db.end_silent(session, db.longest_silence(SILENCE, lease))  # one of them may hold the lock
        if not await _first(session, 0):
            return Swept()
        orphaned = await orphans.release(session, lease) if may_judge is None or await may_judge(session) else 0
        woken = await _wake(session, attempts)
        hopeless = await orphans.hopeless(session, attempts, BATCH)
        due = await _look(session)
    given_up = await _end_each(database, hopeless, orphans.give_up)
    return _told(replace(await _see_to(database, due), orphaned=orphaned, woken=woken, given_up=given_up))


async def look(
    database: Database, attempts: int = RUN_ATTEMPTS, lease: float = RUN_LEASE, may_judge: Judge | None = None
) -> Swept:
    """Sweep, if there is anything to do."""
    if database.direct is not None and not await _needed(database, database.direct, attempts, lease):
        return Swept()
    return await sweep(database, attempts, lease, may_judge)


async def _needed(database: Database, direct: Direct, attempts: int, lease: float) -> bool:
    terms = {
        "seconds": db.longest_silence(SILENCE, lease),
        "farthest": orphans.FAR * lease,
        "attempts": attempts,
        "most": attempts,
        **places.last_places(database.bounds),
    }
    (row,) = await written.fetch(direct, _anything(database.bounds.upstream is not None), terms)
    return bool(row[0])


async def keep_time(database: Database) -> Swept:
    """Do what needs no worker: runs end in time and threads become free although all workers are gone.

    Under a lock of its own, so that no worker's sweep has to wait for the next turn because of it.
    """
    async with database.transaction() as session:
        await db.end_silent(session, SILENCE)
        if not await _first(session, -1):
            return Swept()
        due = await _look(session)
    return _told(await _see_to(database, due))


async def keep_the_time(database: Database, interval: float = 2.0) -> None:
    """Do that every now and then, without an end."""
    while True:
        await asyncio.sleep(interval)
        try:
            await keep_time(database)
        except Exception as error:  # the next time comes soon, whatever it was
            log.warning("time_not_kept", error=db.describe(error))
            await database.back()


async def _first(session: Session, number: int) -> bool:
    return bool((await session.execute(ALONE, {"class": LOCK_CLASS, "number": number})).scalar_one())


async def _look(session: Session) -> _Due:
    return _Due(
        left=(await session.execute(_left())).scalars().all(),
        overdue=(await session.execute(_overdue())).scalars().all(),
        ownerless=(await session.execute(_ownerless())).all(),
        vacant=await places.vacancies(session),
    )


async def _see_to(database: Database, due: _Due) -> Swept:
    return Swept(
        cancelled=await _end_each(database, due.left, closing.cancel),
        expired=await _end_each(database, due.overdue, _expire),
        turns=await _hand_on(database, due.ownerless),
        placed=await _fill(database, due.vacant),
    )


def _told(swept: Swept) -> Swept:
    if swept != Swept():
        log.info("swept", **asdict(swept))
    return swept


async def _wake(session: Session, attempts: int) -> int:
    """Enqueue again what waits for a worker: queued, or left in progress by one."""
    woken = (await session.execute(_due_to_be_woken(), {"attempts": attempts}, execution_options=UNSEEN)).all()
    for run in woken:
        session.enqueue(lifecycle.EXECUTE, run.id, run.attempt)
    return len(woken)


async def _end_each(database: Database, run_ids: Sequence[str], ending: Ending) -> int:
    """End runs, each in a transaction of its own: one that cannot be ended does not keep the others from it."""
    ended = 0
    for run_id in run_ids:
        try:
            async with database.transaction() as session:
                run = await _locked(session, run_id)
                ended += run is not None and await ending(session, run) is not None
        except Exception as error:
            log.exception("run_not_ended", run_id=run_id)
            if isinstance(error, ValueError):
                await _mend(database, run_id)
    return ended


async def _mend(database: Database, run_id: str) -> None:
    """So that the next sweep can end it, if it could not be read."""
    try:
        async with database.transaction() as session:
            await mending.mend(session, run_id)
    except Exception:
        log.exception("run_not_mended", run_id=run_id)


async def _locked(session: Session, run_id: str) -> Run | None:
    """The run, and before it its thread, if nobody else is at either: the next sweep comes soon."""
    of = (await session.execute(select(col(Run.thread_id)).where(col(Run.id) == run_id))).scalar_one_or_none()
    if of is None or not await lifecycle.lock_thread(session, of, wait=False):
        return None
    query = select(Run).where(col(Run.id) == run_id, IS_UNFINISHED)
    return (await session.execute(query.with_for_update(skip_locked=True))).scalar_one_or_none()


async def _expire(session: Session, run: Run) -> Run | None:
    return await closing.end(session, run, "expired", attempt="next")


async def _hand_on(database: Database, ownerless: Sequence[Row[str, str]]) -> int:
    """Give threads to the runs that wait for them: one that cannot be given does not keep the others from theirs."""
    handed = 0
    for project_id, thread_id in ownerless:
        try:
            async with database.transaction() as session:
                if await lifecycle.lock_thread(session, thread_id, wait=False):
                    handed += await turns.hand_on(session, project_id, thread_id, freed=False)
        except Exception:
            log.exception("thread_not_handed_on", thread_id=thread_id)
    return handed


async def _fill(database: Database, project_ids: Sequence[str]) -> int:
    placed = 0
    for project_id in project_ids:
        try:
            async with database.transaction() as session:
                placed += await places.seek(session, project_id)
        except Exception:
            log.exception("places_not_given", project_id=project_id)
    return placed


# The statements, each built once: building them all cost an idle worker a fiftieth of a processor.

ALONE = text("SELECT pg_try_advisory_xact_lock(:class, :number)")


@lru_cache
def _anything(shared: bool) -> Select[bool]:
    """What the statements below look for, and those of `orphans` and `places`."""
    runs = [[*orphans.HELD, orphans.ORPHAN], orphans.HOPELESS, WAKEABLE, GONE, OVERDUE, OWNERLESS]
    found = [exists(select(text("1")).select_from(Run).where(*those)) for those in runs]
    dead = exists(select(text("1")).select_from(Worker).where(orphans.DEAD))
    return select(or_(*found, dead, places.any_vacant(shared=shared), db.ANY_SILENT))


@lru_cache
def _due_to_be_woken() -> ReturningUpdate[str, int]:
    due = select(col(Run.id)).where(*WAKEABLE).limit(WAKE_UPS)
    again = update(Run).where(col(Run.id).in_(due.with_for_update(key_share=True, skip_locked=True)))
    return again.values(wake_at=_wake_again_at()).returning(col(Run.id), col(Run.attempt))


def _wake_again_at() -> Json:
    """When a wake-up that is sent now is sent again."""
    this = (col(RunAttempt.run_id) == col(Run.id)) & (col(RunAttempt.attempt) == col(Run.attempt))
    left_for = func.now() - select(col(RunAttempt.ended_at)).where(this).scalar_subquery()
    soon, patience = timedelta(seconds=SOON), timedelta(seconds=lifecycle.PATIENCE)
    pause = func.least(func.greatest(left_for, soon), patience)
    return case((col(Run.status) == "in_progress", func.now() + pause), else_=lifecycle.wake_later())


@lru_cache
def _left() -> Select[str]:
    return select(col(Run.id)).where(*GONE).limit(BATCH)


@lru_cache
def _overdue() -> Select[str]:
    return select(col(Run.id)).where(*OVERDUE).limit(BATCH)


@lru_cache
def _ownerless() -> Select[str, str]:
    """Projects and threads that runs wait for and none owns."""
    return select(col(Run.project_id), col(Run.thread_id)).where(*OWNERLESS).distinct().limit(BATCH)


UNSEEN = {"synchronize_session": False}
