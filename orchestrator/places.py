"""How many runs are at work at once, and whose turn it is when there are more: a run is woken only if it has a place.

    created, resumed, given its thread ──▶ there is room ──▶ has a place, and is woken
                                     └───▶ there is none: queued, unheard of by Redis ──(a place comes free)──▶ woken

A run holds its place until it comes to rest (over, or waiting for outputs), whoever carries it. Then the place goes to
the project's oldest run that waits, or, if all projects share a bound, to the project that holds the fewest: in the
transaction that frees it, or, if a hundred are freed by one statement, in one behind it (see `giving`). Housekeeping
gives away what was left over.

What must not be forgotten:

- No counter is kept: what holds a place is counted by a partial index. A hot row would have all runs stand in line.
- As long as a bound is far, nothing is locked. Within `MARGIN` of it, whoever gives places away does so alone, under an
  advisory lock that is kept until the commit: two that count at once would both find the last place free.
- That lock comes last, after the thread's and the run's rows, and is the only one of its kind in a transaction. Who
  holds it waits for no row: runs that somebody else has locked are passed over.
- Who hands its own place to another run changes no count, and needs no lock. Nor does who frees one and gives none.
"""

import random
from functools import lru_cache

import structlog
from sqlalchemy import (
    CTE,
    ColumnElement,
    Integer,
    ScalarSelect,
    Select,
    bindparam,
    func,
    literal,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.orm import aliased
from sqlalchemy.sql.dml import ReturningUpdate
from sqlmodel import col

from orchestrator import lifecycle
from orchestrator.bounds import Bounds
from orchestrator.db import Session
from orchestrator.errors import Busy
from orchestrator.foreign import Json
from orchestrator.tables import EPOCH, HOLDS_PLACE, LACKS_PLACE, Run

log = structlog.get_logger(__name__)

MARGIN = 128
"""So close to a bound, places are given away one by one, and what is under way at once must be fewer. Of an API process
up to seven sixteenths of it are, on the short way (see `plain.verbs`). So where more than two create runs in the same
moment, a bound may be exceeded by as many for each of the others, until as many runs have ended.
"""
BATCH = 200
"""Places that are given away in one go."""
BATCH_OF_ALL = MARGIN // 2
"""The same where projects share a bound. Who neither waits nor knows of runs that do may take a place while they are
given away, unseen: what one commit gives must stay well within the margin.
"""
RETRY_AFTER = (1, 5)
"""Seconds, from and to, after which a client that was refused may come again."""
LOCK_CLASS = 0x0A552
"""The first key of the advisory locks; the second is the project's, or 0 where all projects share a bound."""

QUEUE_IS_FULL = (
    "Rate limit reached for runs of this project. Limit: {queue} that wait to begin. Please try again in {seconds}s."
)

LOCK = text("SELECT pg_advisory_xact_lock(:class, CASE WHEN :shared THEN 0 ELSE hashtext(:project) END)")


# -- what those who create and end runs ask --


def flags(*, shared: bool) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Whether runs of a project wait for a place, and whether places are nearly all held, for a statement of somebody
    else's; `asked` has its parameters.
    """
    queued = _lacking(bindparam("of_project")).exists()
    near = _held(bindparam("of_project")).offset(bindparam("near", type_=Integer)).exists()
    near_all = _held().offset(bindparam("near_all", type_=Integer)).exists()
    return queued, or_(near, near_all) if shared else near


def asked(bounds: Bounds, project_id: str) -> dict[str, Json]:
    """The parameters of `flags`."""
    asked = {"of_project": project_id, "near": _before(bounds.project)}
    return asked if bounds.upstream is None else {**asked, "near_all": _before(bounds.upstream)}


def crowded(bounds: Bounds, *, waiting: bool, near: bool) -> bool:
    """Whether places must be given away one by one, given the two flags."""
    return waiting or near or min(bounds.project, bounds.upstream or bounds.project) <= MARGIN


async def check_queue(session: Session, project_id: str) -> None:
    """Raise Busy if no more runs of the project may wait for a place. Exact but for creations that are under way."""
    asked = {"of_project": project_id, "before_last": session.bounds.queue - 1}
    if (await session.execute(_queue_is_full(), asked)).scalar_one():
        seconds = random.randint(*RETRY_AFTER)  # noqa: S311  # spreads them: all would come back in the same second
        raise Busy(QUEUE_IS_FULL.format(queue=session.bounds.queue, seconds=seconds), retry_after=seconds)


async def seek(session: Session, project_id: str, until: str | None = None) -> int:
    """Give the places that are free to the runs that wait for them, in order, at the latest `until` that run has one.
    Returns how many got one.

    For whoever has just made a run wait, for whoever has freed places (see `giving`), and for housekeeping.
    """
    shared = session.bounds.upstream is not None
    await session.execute(LOCK, {"class": LOCK_CLASS, "shared": shared, "project": project_id})
    return await _give(session, project_id, BATCH_OF_ALL if shared else BATCH, until)


async def hand_on(session: Session, project_id: str, *, waiting: bool) -> None:
    """Give away a place that this transaction has freed. `waiting`: runs of the project are known to wait for one."""
    if waiting and session.bounds.upstream is None and await _give(session, project_id, 1):
        return
    await seek(session, project_id)


async def vacancies(session: Session) -> list[str]:
    """Projects that have runs without a place, and places without a run: one of them if all share a bound."""
    bounds = session.bounds
    shared = bounds.upstream is not None
    found = (await session.execute(_vacant(shared), last_places(bounds))).scalars().all()
    return list(found[:1] if shared else found)


def any_vacant(*, shared: bool) -> ColumnElement[bool]:
    """Whether there are `vacancies`, for a statement of somebody else's; `last_places` has its parameters."""
    return _vacant(shared).exists()


def last_places(bounds: Bounds) -> dict[str, Json]:
    """The parameters of `any_vacant`."""
    return {"last": bounds.project - 1, "last_of_all": (bounds.upstream or 1) - 1}


# -- giving places away --


async def _give(session: Session, project_id: str, most: int, until: str | None = None) -> int:
    bounds = session.bounds
    asked: dict[str, Json] = {"project": bounds.project}
    if bounds.upstream is None:
        placed = list(await session.execute(_of_project(), {**asked, "of_project": project_id, "most": most}))
    else:
        placed = []
        while len(placed) < most and not (placed and placed[-1].id == until):
            one = (await session.execute(_of_all(), {**asked, "upstream": bounds.upstream})).one_or_none()
            if one is None:
                break
            placed.append(one)
    for run in sorted(placed, key=lambda run: run.position):
        session.enqueue(lifecycle.EXECUTE, run.id, run.attempt)
        log.info("run_got_a_place", run_id=run.id)
    return len(placed)


# The statements, each built once: building one costs as much as carrying it out.


@lru_cache
def _of_project() -> ReturningUpdate[str, int, int]:
    """Gives free places to the oldest runs of a project."""
    room = bindparam("project", type_=Integer) - _count(bindparam("of_project"))
    room = func.greatest(0, func.least(bindparam("most", type_=Integer), room))
    # Kept apart, because a plan that asks for them twice would get twice as many.
    chosen = _oldest(bindparam("of_project")).limit(room).cte("chosen").prefix_with("MATERIALIZED")
    return _placed().where(col(Run.id).in_(select(chosen.c.id)))


@lru_cache
def _of_all() -> ReturningUpdate[str, int, int]:
    """Gives a free place to the oldest run of that project which holds the fewest."""
    crowd = _crowd()
    held = _count(crowd.c.project_id).label("held")
    first = aliased(Run)
    since = select(func.min(col(first.position))).where(col(first.project_id) == crowd.c.project_id, LACKS_PLACE)
    each = select(crowd.c.project_id, held, since.scalar_subquery().label("since")).where(_is_one(crowd)).subquery()
    fewest = select(each.c.project_id).where(each.c.held < bindparam("project", type_=Integer))
    fewest = fewest.order_by(each.c.held, each.c.since).limit(1)
    oldest = _oldest(fewest.scalar_subquery()).limit(1)
    room = _count() < bindparam("upstream", type_=Integer)
    return _placed().where(col(Run.id) == oldest.scalar_subquery(), room)


@lru_cache
def _vacant(shared: bool) -> Select[Json]:
    crowd = _crowd()
    free = ~_held(crowd.c.project_id).offset(bindparam("last", type_=Integer)).exists()
    if shared:
        free = free & ~_held().offset(bindparam("last_of_all", type_=Integer)).exists()
    return select(crowd.c.project_id).where(_is_one(crowd), free).limit(BATCH)


@lru_cache
def _queue_is_full() -> Select[Json]:
    return select(_lacking(bindparam("of_project")).offset(bindparam("before_last", type_=Integer)).exists())


def _crowd() -> CTE:
    """The projects that have runs without a place, found one after the other: however many those are, each costs one
    look into the index. The last is null.
    """
    first, next_ = aliased(Run), aliased(Run)
    crowd = select(func.min(col(first.project_id)).label("project_id")).where(LACKS_PLACE).cte("crowd", recursive=True)
    after = select(func.min(col(next_.project_id))).where(col(next_.project_id) > crowd.c.project_id, LACKS_PLACE)
    return crowd.union_all(select(after.scalar_subquery()).where(_is_one(crowd)))


def _is_one(crowd: CTE) -> ColumnElement[bool]:
    return crowd.c.project_id.is_not(None)


def _placed() -> ReturningUpdate[str, int, int]:
    given = update(Run).values(placed=True, wake_at=lifecycle.wake_later())
    return given.returning(col(Run.id), col(Run.attempt), col(Run.position))


def _oldest(project: Json) -> Select[Json]:
    run = aliased(Run)
    in_time = col(run.expires_at) > EPOCH
    oldest = select(col(run.id)).where(col(run.project_id) == project, LACKS_PLACE, in_time)
    return oldest.order_by(col(run.position)).with_for_update(key_share=True, skip_locked=True)


def _lacking(project: Json) -> Select[Json]:
    run = aliased(Run)
    return select(literal(1)).select_from(run).where(col(run.project_id) == project, LACKS_PLACE)


def _held(project: Json = None) -> Select[Json]:
    run = aliased(Run)
    held = select(literal(1)).select_from(run).where(HOLDS_PLACE)
    return held if project is None else held.where(col(run.project_id) == project)


def _count(project: Json = None) -> ScalarSelect[Json]:
    run = aliased(Run)
    count = select(func.count()).select_from(run).where(HOLDS_PLACE)
    return (count if project is None else count.where(col(run.project_id) == project)).scalar_subquery()


def _before(bound: int) -> int:
    """How many places are held, but for one, where the margin of a bound begins."""
    return max(bound - MARGIN, 1) - 1
