"""Runs of which a column cannot be read, as no process of ours writes it: somebody has, by hand.

Whoever reads such a run fails, so it could be neither carried nor ended, nor shown. What cannot be read is replaced by
what runs have that say nothing of it: then the run can be failed, by whoever has come across it. What stood there is
lost, and the log says where that was.
"""

from functools import lru_cache

import structlog
from sqlalchemy import TextClause, text, update
from sqlmodel import col

from orchestrator.db import Session
from orchestrator.tables import Run, records

log = structlog.get_logger(__name__)


async def mend(session: Session, run_id: str) -> None:
    """Make a run readable again, if that is what it lacks. Its row is locked until the transaction ends."""
    row = (await session.execute(_as_text(), {"of": run_id})).one_or_none()
    broken = [] if row is None else _columns().unreadable(row)
    if broken:
        values = {name: Run.model_fields[name].get_default(call_default_factory=True) for name in broken}
        whole = update(Run).where(col(Run.id) == run_id).values(values)
        await session.execute(whole, execution_options={"synchronize_session": False})
        log.error("run_mended", run_id=run_id, columns=broken)


@lru_cache
def _columns() -> records.Columns:
    return records.Columns(Run)


@lru_cache
def _as_text() -> TextClause:
    return text(f"SELECT {_columns().of('runs')} FROM runs WHERE id = :of FOR NO KEY UPDATE")  # noqa: S608
