"""The worker processes of the installation: who has come, who has left in order, and whom only his lock could tell of.

A process writes itself down once it holds its lock (see `presence`), and again whenever it has taken it anew: others
may have taken it for dead meanwhile. It strikes itself out before it lets go of the lock.
"""

from collections.abc import Sequence
from functools import lru_cache

from sqlalchemy import delete
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningDelete
from sqlmodel import col

from orchestrator import attempts
from orchestrator.db import Session
from orchestrator.foreign import Json
from orchestrator.tables import Worker


async def enter(session: Session, owner: str) -> None:
    """Write this process down, unless it is."""
    row = {"owner": owner, "name": attempts.worker()}
    await session.execute(insert(Worker).values(row).on_conflict_do_nothing())


async def leave(session: Session, owner: str) -> None:
    """Strike it out: it ends in order, and nobody needs to look for what it has left."""
    await session.execute(delete(Worker).where(col(Worker.owner) == owner))


async def bury(session: Session, dead: Json) -> Sequence[Worker]:
    """Strike out those who are `dead`, and return them."""
    buried = await session.execute(_buried(dead), execution_options={"synchronize_session": False})
    return buried.scalars().all()


@lru_cache
def _buried(dead: Json) -> ReturningDelete[Worker]:
    """Built once: it is carried out again and again."""
    return delete(Worker).where(dead).returning(Worker)
