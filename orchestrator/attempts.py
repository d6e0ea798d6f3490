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
from functools import lru_cache
from typing import Literal, NamedTuple

from sqlalchemy import (
    CTE,
    ClauseElement,
    Float,
    Select,
    String,
    Table,
    bindparam,
    case,
    cast,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.orm import aliased
from sqlmodel import SQLModel, col

from orchestrator.db import Session
from orchestrator.foreign import Json
from orchestrator.tables import Run, RunAttempt

Leaving = Literal["handed over", "database away", "gave up"]
"""Why a worker lets a run go that has not come to rest."""
FORGIVEN = 2
"""Losses in a row after which a run is handed on at once."""
LONGEST = 16.0
"""Seconds of the longest pause, on average."""
DIED, SILENT = "worker died", "lease ran out"
"""Why a run was taken from its worker."""

HOST = socket.gethostname()
XID = cast(func.pg_current_xact_id(), String)
"""What Postgres calls the transaction; asked along with something else, it costs nothing."""


class Opened(NamedTuple):
    """A change opens the run's attempt."""

    worker: str


class Closed(NamedTuple):
    """A change closes it."""

    outcome: str
    detail: str | None = None


Note = Opened | Closed | None
Kind = Literal["opens", "closes"] | None


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


async def change(
    session: Session, this: tuple[str, int | None], of: Sequence[str], note: Note, *where: Json, **values: Json
) -> Run | None:
    """Change a run, and note what becomes of its attempt. None if the run is not at the attempt of `this` (None: any),
    or not in one of the statuses `of`, or not as `where` says.

    Expressions among `where` and `values` must be the same objects each time.
    """
    run_id, attempt = this
    given = {name: value for name, value in values.items() if isinstance(value, ClauseElement)}
    bound = {f"to_{name}": value for name, value in values.items() if name not in given}
    kind: Kind = None if note is None else "opens" if isinstance(note, Opened) else "closes"
    query = _change(tuple(of), attempt is not None, kind, where, tuple(bound), tuple(given.items()))
    terms = {"this": run_id, "fence": attempt, **(note._asdict() if note else {}), **bound}
    row = (await session.execute(query, terms, execution_options=WHOLE)).one_or_none()
    if row is None:
        return None
    session.xid = row.xid
    return row[0]


@lru_cache
def _change(
    of: tuple[str, ...],
    fenced: bool,
    kind: Kind,
    where: tuple[Json, ...],
    bound: tuple[str, ...],
    given: tuple[tuple[str, Json], ...],
) -> Select[Run, str]:
    """Built once for each kind of change, of which there are few: each run would spend milliseconds on it."""
    runs = table(Run)
    this: list[Json] = [col(Run.id) == bindparam("this"), col(Run.status).in_(of), *where]
    if fenced:
        this.append(col(Run.attempt) == bindparam("fence"))
    values: dict[str, Json] = {name.removeprefix("to_"): bindparam(name) for name in bound}
    changed = update(runs).where(*this).values(values | dict(given)).returning(*runs.c).cte("changed")
    query = select(aliased(Run, changed), XID.label("xid"))
    if kind == "opens":
        query = query.add_cte(opened(changed, bindparam("worker", type_=String)))
    if kind == "closes":
        ends = (bindparam("outcome", type_=String), bindparam("detail", type_=String))
        query = query.add_cte(closed(changed, *ends))
    return query


def pause(losses: Json) -> Json:
    """How long a run waits that is lost once more, beyond the `losses` that it counts: in the end some
    `LONGEST` seconds. Drawn at random, so that runs that were lost together do not come back together.
    """
    most = func.least(func.pow(2.0, losses - FORGIVEN), LONGEST)
    seconds = case((losses < FORGIVEN, 0.0), else_=2 * func.random() * most)
    return func.make_interval(0, 0, 0, 0, 0, 0, cast(seconds, Float))


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


WHOLE = {"synchronize_session": False, "populate_existing": True}
