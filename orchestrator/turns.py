"""Whose turn it is on a thread: runs that were created behind an active one take it in the order of their creation.

    waiting ──(the active run has ended, however and by whomever)──▶ active, and woken once it has a place

A waiting run is `queued` to clients and owns nothing: the index of active runs leaves it out. It gets the thread in the
transaction that ends its predecessor, with the thread's row locked (see `lifecycle`), so no end and no creation can
pass each other unseen. What it brings along is added to the thread then, not before: it would stand in the middle of
its predecessor's conversation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import structlog
from sqlalchemy import Select, bindparam, func, select, update
from sqlalchemy.orm import aliased
from sqlalchemy.sql.dml import ReturningUpdate
from sqlmodel import col

from orchestrator import lifecycle, places
from orchestrator.db import Session
from orchestrator.foreign import Json
from orchestrator.tables import EPOCH, IS_ACTIVE, IS_WAITING, Message, Run, now
from orchestrator.wire import objects

log = structlog.get_logger(__name__)

Columns = dict[str, Json]
"""A message that is not in a thread yet: the columns that the client's request decides."""


async def waiting(session: Session, thread_id: str) -> int:
    """How many runs wait for their turn on the thread."""
    query = select(func.count()).select_from(Run).where(col(Run.thread_id) == thread_id, IS_WAITING)
    return (await session.execute(query)).scalar_one()


@dataclass(frozen=True, slots=True)
class Standing:
    """How a thread and its project stand.

    `active`: the run that owns the thread; `next`: the one that has waited longest for it. `queued`: runs of the
    project wait for a place; `crowded`: so few are left, if any, that they are given away one by one (see `places`).
    """

    active: str | None
    next: str | None
    queued: bool
    crowded: bool


async def standing(session: Session, project_id: str, thread_id: str) -> Standing:
    """How things stand, in one statement."""
    bounds = session.bounds
    asked = {"of": thread_id, **places.asked(bounds, project_id)}
    row = (await session.execute(_standing(bounds.upstream is not None), asked)).one()
    crowded = places.crowded(bounds, waiting=row.queued, near=row.near)
    return Standing(row.active, row.next, row.queued, crowded)


async def hand_on(session: Session, project_id: str, thread_id: str, *, freed: bool) -> bool:
    """Give the thread to the run that has waited longest for it, if nobody owns it, and the place that this transaction
    has `freed` to the next that waits for one. Returns whether a run got the thread.

    The caller has the thread's row locked, unless a run owns it that the caller has locked.
    """
    found = await standing(session, project_id, thread_id)
    turn = found.next if found.active is None else None
    if turn is not None:
        await _take_turn(session, turn, project_id, placed=not found.crowded)
    if found.crowded and freed:
        await places.hand_on(session, project_id, waiting=found.queued or turn is not None)
    elif found.crowded and turn is not None:
        await places.seek(session, project_id)
    return turn is not None


async def _take_turn(session: Session, run_id: str, project_id: str, *, placed: bool) -> None:
    values = {"of": run_id, "project": project_id}
    run = (await session.execute(_turn(placed), values, execution_options=WHOLE)).scalar_one()
    await _add_messages(session, run)
    tell_created(session, run)
    if placed:
        lifecycle.wake(session, run)
    log.info("run_takes_its_turn", run_id=run.id, thread_id=run.thread_id)


@lru_cache
def _standing(shared: bool) -> Select[Json]:
    """Built once: every run that is created, and every one that ends, asks."""
    active, first = aliased(Run), aliased(Run)
    of: Json = bindparam("of")
    owner = select(col(active.id)).where(col(active.thread_id) == of, IS_ACTIVE)
    unexpired = col(first.expires_at) > EPOCH
    oldest = select(col(first.id)).where(col(first.thread_id) == of, IS_WAITING, unexpired)
    oldest = oldest.order_by(col(first.position)).limit(1)
    queued, near = places.flags(shared=shared)
    return select(
        owner.scalar_subquery().label("active"),
        oldest.scalar_subquery().label("next"),
        queued.label("queued"),
        near.label("near"),
    )


@lru_cache
def _turn(placed: bool) -> ReturningUpdate[Run]:
    turn = update(Run).where(col(Run.id) == bindparam("of"))
    wake_at = lifecycle.wake_later() if placed else None
    turn = turn.values(waiting=False, project_id=bindparam("project"), placed=placed, wake_at=wake_at)
    return turn.returning(Run)


def tell_created(session: Session, run: Run) -> None:
    """Publish a run's first events.

    Whoever hands it the thread publishes them once more, with the same ids: the process that created it may be slower
    than the worker, and what comes after the worker's events is not heard. The second of the two is dropped by Redis
    and by every listener.
    """
    session.publish(run.id, run.attempt, "thread.run.created", objects.dump(objects.run(run)))
    lifecycle.told(session, run)


async def add(session: Session, thread_id: str, messages: Sequence[Columns]) -> list[Message]:
    """Add messages at the end of the thread, in their order."""
    rows = [Message(thread_id=thread_id, completed_at=now(), **columns) for columns in messages]
    session.add_all(rows)
    await session.flush()
    return rows


async def _add_messages(session: Session, run: Run) -> None:
    if run.additional_messages:
        await add(session, run.thread_id, run.additional_messages)
        run.additional_messages = None


WHOLE = {"synchronize_session": False, "populate_existing": True}
