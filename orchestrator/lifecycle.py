"""The life of a run, and the rules by which its status is written.

    queued ──▶ in_progress ──▶ completed | incomplete | failed
      ▲             │    ▲ (taken over: same status, next attempt)
      │             ▼
      └──── requires_action           any active ──▶ expired
    queued | in_progress | requires_action ──▶ cancelling ──▶ cancelled

`move` is a guarded UPDATE: it changes the row only if the run is in a status from which the step is legal and, where
the writer speaks for an attempt, if that attempt still owns the run. Its event follows from it and from nothing else. A
partial unique index allows one active run per thread; a queued run may wait for its turn behind it (see `turns`).
`expires_at` is set once: the clock never starts again. That clock is the database's, and so is that of leases: those of
hosts may be wrong, or jump.

Runs that nothing stands in the way of take three of these steps together, many at a time: they are claimed by
`claiming`, and come to rest by `plain_lines`, whose statements keep the same rules and change no run that is in any
other state than the step's.

Rows are locked in one order, thread before run: whoever decides which run owns a thread (by creating, ending or handing
on) locks the thread first. What only moves a run on locks the run alone.
"""

from collections.abc import Collection
from functools import lru_cache
from typing import Literal, NamedTuple

from sqlalchemy import and_, func, or_, select, update
from sqlmodel import col

from orchestrator import attempts, webhooks
from orchestrator.attempts import XID, Closed, Leaving, Opened, change
from orchestrator.db import Session
from orchestrator.errors import LeaseLost, RunCancelled
from orchestrator.events.frames import RESTING
from orchestrator.foreign import Json
from orchestrator.tables import ACTIVE, EPOCH, HOLDS_PLACE, IS_ACTIVE, Run, Thread
from orchestrator.wire import objects

Status = Literal[
    "queued",
    "in_progress",
    "requires_action",
    "cancelling",
    "cancelled",
    "failed",
    "completed",
    "incomplete",
    "expired",
]
Ending = Literal["cancelled", "failed", "completed", "incomplete", "expired"]

FROM: dict[Status, tuple[str, ...]] = {
    "queued": ("requires_action",),
    "in_progress": ("queued",),
    "requires_action": ("in_progress",),
    "cancelling": ("queued", "in_progress", "requires_action"),
    "cancelled": ("cancelling",),
    "failed": ("queued", "in_progress"),
    "completed": ("in_progress",),
    "incomplete": ("in_progress",),
    "expired": ACTIVE,
}
"""Every legal transition. A run is created as `queued`."""

ENDS_ATTEMPT = ("requires_action", "cancelled", "failed", "completed", "incomplete", "expired")
"""Statuses in which nobody is at the run any more."""
STAMPS: dict[Status, str] = {"cancelled": "cancelled_at", "failed": "failed_at", "completed": "completed_at"}

Attempt = Literal["same", "next"]

NEXT: Json = Run.attempt + 1
NOW: Json = func.now()
UNOWNED: Json = col(Run.owner).is_(None)
DUE: Json = and_(HOLDS_PLACE, col(Run.expires_at) > EPOCH)

A_LOSS: dict[str, Json] = {"losses": Run.losses + 1, "wake_at": NOW + attempts.pause(col(Run.losses))}

FRESH = 5 / 6
"""The part of a lease that may be left when it need not be renewed yet. Heartbeats come each third: at the next one,
half of it is left.
"""
PATIENCE = 30.0
"""Seconds that a wake-up may stay unanswered before housekeeping sends it again."""
EXECUTE = "runs.execute"
"""The task that carries a run on; see `wake`."""


def wake(session: Session, run: Run) -> None:
    """Enqueue the run for any worker, after commit.

    A wake-up is good for the attempt that it names. One from before, that comes late or twice, might otherwise have the
    run claimed ahead of the events of whoever has just moved it, and those would come too late to be told.
    """
    session.enqueue(EXECUTE, run.id, run.attempt)


def at_rest(run: Run) -> bool:
    """Whether the run does not move by itself: it is over, or waits for outputs."""
    return f"thread.run.{run.status}" in RESTING


def told(session: Session, run: Run) -> None:
    """Publish a run's status as its event, after commit, to listeners and to the webhook."""
    session.publish(run.id, run.attempt, f"thread.run.{run.status}", objects.dump(objects.run(run)))
    webhooks.record(session, run)


def told_cancelling(session: Session, cancelled: Run) -> None:
    """Publish `thread.run.cancelling` for a run that has just been cancelled.

    Whoever ends the run tells it, because only one may write to the attempt's stream, and a client's cancel is not the
    one.
    """
    before = {"status": "cancelling", "cancelled_at": None, "usage": None, "expires_at": cancelled.expires_at}
    data = objects.dump({**objects.run(cancelled), **before})
    session.publish(cancelled.id, cancelled.attempt, "thread.run.cancelling", data)


async def move(
    session: Session, run: Run, to: Status, *, attempt: Attempt, tell: bool = True, **values: Json
) -> Run | None:
    """Move a run to status `to`, or return None if it may not go there (any more). `values` are further columns.

    `attempt="same"`: the writer speaks for `run.attempt` and writes only while that attempt is the run's.
    `attempt="next"`: the writer comes from outside and opens the next attempt, which fences off whoever was at work.
    `tell=False` leaves the event to the caller, who publishes it with `told` when it is its turn.
    """
    if attempt == "next":
        values["attempt"] = NEXT
    if stamp := STAMPS.get(to):
        values[stamp] = EPOCH
    if to != "cancelling":
        values |= {"owner": None, "lease_until": None}
    if to not in ACTIVE:
        values |= {"waiting": False, "additional_messages": None}
    if to in ("queued", "requires_action"):
        values["losses"] = 0
    if to == "requires_action" or to not in ACTIVE:
        values["placed"] = False
    this = (run.id, run.attempt if attempt == "same" else None)
    note = Closed(to) if to in ENDS_ATTEMPT else None
    moved = await change(session, this, FROM[to], note, status=to, **values)
    if moved is not None and tell:
        told(session, moved)
    return moved


class Claimed(NamedTuple):
    """A run that a worker has taken. `left_behind`: another had it before."""

    run: Run
    left_behind: bool = False


async def claim(session: Session, run_id: str, owner: str, lease: float, attempt: int | None = None) -> Claimed | None:
    """Take a run that waits for a worker: queued, or left behind in progress, or None.

    Whoever claims opens the next attempt. A run that is taken over keeps its status and its `started_at`: no event.
    With `attempt`, the run is taken only if that is its attempt.
    """
    this = (run_id, attempt)
    terms = {"owner": owner, "lease_until": _in(lease), "attempt": NEXT}
    note = Opened(attempts.worker())
    run = await change(session, this, FROM["in_progress"], note, DUE, status="in_progress", started_at=EPOCH, **terms)
    if run is not None:
        told(session, run)
        return Claimed(run)
    run = await change(session, this, ("in_progress",), note, UNOWNED, **terms)
    return None if run is None else Claimed(run, left_behind=True)


def time_left(claimed: Run, lease: float) -> float:
    """Seconds until the run expires, of a run that was claimed a moment ago with this lease: by the database's clock,
    which the lease was set by.
    """
    if claimed.lease_until is None:
        raise RuntimeError("the run is not claimed")
    return claimed.expires_at - claimed.lease_until.timestamp() + lease


async def lock_thread(session: Session, thread_id: str, *, wait: bool = True) -> bool:
    """Be the one who decides which run owns the thread, until this transaction ends. False if it is gone, or locked by
    somebody else and not waited for.
    """
    query = select(col(Thread.id)).where(col(Thread.id) == thread_id)
    locked = await session.execute(query.with_for_update(key_share=True, skip_locked=not wait))
    return locked.scalar_one_or_none() is not None


async def hold(session: Session, run: Run, *, ending: bool = False) -> None:
    """Lock the row for a line of `run.attempt`, if its owner still has it. Raises LeaseLost or RunCancelled: nothing
    may be written then.

    A line that is `ending` the run hands the thread on, and locks it first.
    """
    if ending:
        await lock_thread(session, run.thread_id)
    query = select(col(Run.attempt), col(Run.owner), col(Run.status), XID.label("xid")).where(col(Run.id) == run.id)
    row = (await session.execute(query.with_for_update(key_share=True))).one_or_none()
    session.xid = row and row.xid
    if row is None or (row.attempt, row.owner) != (run.attempt, run.owner):  # taken over, or taken away
        raise LeaseLost(run.id)
    if row.status == "cancelling":
        raise RunCancelled(run.id)
    if row.status != "in_progress":
        raise LeaseLost(run.id)


async def release(session: Session, run: Run, why: Leaving = "handed over", detail: str | None = None) -> None:
    """Give a claimed run back, unfinished: it stays in progress until somebody claims the next attempt. One that was
    cancelled meanwhile is housekeeping's to end. One that its worker gave up is as good as lost with it.
    """
    gave_up = why == "gave up"
    free = {"owner": None, "lease_until": None, **(A_LOSS if gave_up else {"wake_at": NOW})}
    held = ("in_progress", "cancelling")
    left = await change(session, (run.id, run.attempt), held, Closed(why, detail), **free)
    if left is not None and left.status == "in_progress" and not gave_up:
        wake(session, left)


async def checkpoint(session: Session, run: Run) -> None:
    """The run has got somewhere: what it has lost before no longer counts."""
    if run.losses:
        mine = (col(Run.id) == run.id) & (col(Run.attempt) == run.attempt)
        await session.execute(update(Run).where(mine).values(losses=0), execution_options=UNSEEN)


async def renew(session: Session, owner: str, carried: Collection[str], lease: float) -> dict[str, tuple[int, str]]:
    """Renew the leases of the runs that a worker process carries, unless they are fresh. Returns attempt and status of
    those that it still owns.

    Only of those: what it owns but does not carry (a claim's answer was lost, a last line failed) must not be kept.

    A row is locked while its lease is renewed, and a line that meets it goes the long way. Of a thousand short runs a
    tenth did so at each heartbeat.
    """
    mine: list[Json] = [col(Run.owner) == owner, col(Run.id).in_(carried), IS_ACTIVE]
    until = col(Run.lease_until)
    due = or_(until.is_(None), until < _in(lease * FRESH), until > _in(lease))  # beyond: the clock was put back
    await session.execute(update(Run).where(*mine, due).values(lease_until=_in(lease)), execution_options=UNSEEN)
    rows = await session.execute(select(col(Run.id), col(Run.attempt), col(Run.status)).where(*mine))
    return {row.id: (row.attempt, row.status) for row in rows}


def wake_later() -> Json:
    """The next `wake_at` of a run that has just been enqueued."""
    return _in(PATIENCE)


@lru_cache
def _in(seconds: float) -> Json:
    return func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)


UNSEEN = {"synchronize_session": False}
