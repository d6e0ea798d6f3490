"""Whose turn it is on a thread: runs that were created behind an active one take it in the order of their creation.

    waiting ──(the active run has ended, however and by whomever)──▶ active, and enqueued

A waiting run is `queued` to clients and owns nothing: the index of active runs leaves it out. It gets the thread in the
transaction that ends its predecessor, with the thread's row locked (see `lifecycle`), so no end and no creation can
pass each other unseen. What it brings along is added to the thread then, not before: it would stand in the middle of
its predecessor's conversation.
"""

from collections.abc import Sequence
from functools import lru_cache

import structlog
from sqlalchemy import bindparam, func, select, update
from sqlalchemy.orm import aliased
from sqlalchemy.sql.dml import ReturningUpdate
from sqlmodel import col

from orchestrator import lifecycle
from orchestrator.db import Session
from orchestrator.foreign import Json
from orchestrator.tables import IS_ACTIVE, IS_WAITING, Message, Run, now
from orchestrator.wire import objects

log = structlog.get_logger(__name__)

Columns = dict[str, Json]
"""A message that is not in a thread yet: the columns that the client's request decides."""


async def waiting(session: Session, thread_id: str) -> int:
    """How many runs wait for their turn on the thread."""
    query = select(func.count()).select_from(Run).where(col(Run.thread_id) == thread_id, IS_WAITING)
    return (await session.execute(query)).scalar_one()


async def next_turn(session: Session, thread_id: str) -> bool:
    """Give the thread to the run that has waited longest, if nobody owns it. Returns whether a run got it.

    The caller has the thread's row locked.
    """
    of = {"of": thread_id, "now": now()}
    run = (await session.execute(_turn(), of, execution_options=WHOLE)).scalar_one_or_none()
    if run is None:
        return False
    await _add_messages(session, run)
    tell_created(session, run)
    lifecycle.wake(session, run)
    log.info("run_takes_its_turn", run_id=run.id, thread_id=run.thread_id)
    return True


@lru_cache
def _turn() -> ReturningUpdate[Run]:
    """Built once: every run that ends asks."""
    other, first = aliased(Run), aliased(Run)
    thread_id: Json = bindparam("of")
    owned = select(col(other.id)).where(col(other.thread_id) == thread_id, IS_ACTIVE).exists()
    unexpired = col(first.expires_at) > bindparam("now")
    oldest = select(col(first.id)).where(col(first.thread_id) == thread_id, IS_WAITING, unexpired)
    oldest = oldest.order_by(col(first.position)).limit(1)
    turn = update(Run).where(col(Run.id) == oldest.scalar_subquery(), ~owned)
    return turn.values(waiting=False, wake_at=lifecycle.wake_later()).returning(Run)


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
