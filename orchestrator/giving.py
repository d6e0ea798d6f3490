"""Gives away the places that runs of this process have freed together, behind the statement that has ended them.

    runs come to rest, a hundred at once ──▶ freed(project) ─┬─▶ a transaction that gives all that is free ──▶ woken
                     (nobody waits for it)                   └─▶ (one is under way) one more, once that has ended

What must not be forgotten:

- To free a place needs no lock, to give one does. Who looked before the others' commit would not see them: so it is
  asked under the lock, and after the places are free, whether anybody waits.
- Nothing is lost if this is: the process ends, or Postgres stays away. Housekeeping finds places that nobody has.
- A project waits here once at most, however many of its runs end meanwhile; where all share a bound, all wait as one.
"""

import asyncio
from contextvars import Context
from typing import Final

import structlog
from sqlalchemy import select

from orchestrator import background, db, places
from orchestrator.attempts import XID
from orchestrator.db import Database, Session
from orchestrator.patience import Once, patiently

log = structlog.get_logger(__name__)

LANES: Final = 2
"""Projects that are seen to at once: one whose lock is held for long does not hold up the others."""
PATIENCE: Final = 10.0
"""Seconds that a database which is away is waited for."""
LAST: Final = 2.0
"""Seconds that what is under way has to end when the process does."""
ALL: Final = ""
"""What stands for all projects that share a bound: whichever is named, the one that holds the fewest is served."""


class Giving:
    """The giving away of a process. Close it before the database is closed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._shared = database.bounds.upstream is not None
        self._wanted: dict[str, None] = {}
        self._served: set[str] = set()
        self._lanes: set[asyncio.Task[None]] = set()
        self._closed = False

    def freed(self, project_id: str) -> None:
        """Runs of the project have freed places that are scarce, and that is committed."""
        if self._closed:
            return
        self._wanted[ALL if self._shared else project_id] = None
        if len(self._lanes) < LANES and self._wanted.keys() - self._served:
            self._lanes.add(asyncio.get_running_loop().create_task(self._lane(), name="places", context=Context()))

    async def close(self) -> None:
        """Return once what is under way has ended, or was ended; the rest is left to housekeeping."""
        self._closed = True
        if lanes := set(self._lanes):
            await asyncio.wait(lanes, timeout=LAST)
            await background.end(*lanes)

    async def _lane(self) -> None:
        try:
            await self._work()
        finally:  # at once: who comes now must not rely on a lane that has looked already
            self._lanes -= {lane for lane in self._lanes if lane is asyncio.current_task()}

    async def _work(self) -> None:
        while (project_id := self._next()) is not None:
            self._served.add(project_id)
            try:
                given = await self._give(project_id)
                if given == places.BATCH or (given and self._shared):  # who ended meanwhile may have seen none wait
                    self._wanted[project_id] = None
            except Exception as error:  # housekeeping will, whatever it was
                log.warning("places_not_given", project_id=project_id, error=db.describe(error))
            finally:
                self._served.discard(project_id)

    def _next(self) -> str | None:
        return next((project_id for project_id in self._wanted if project_id not in self._served), None)

    async def _give(self, project_id: str) -> int:
        async def work(session: Session) -> int:
            given = await places.seek(session, project_id)
            if given:
                session.xid = (await session.execute(select(XID))).scalar_one()
            return given

        del self._wanted[project_id]  # who ends from now on may come too late for this transaction
        once, until = Once(self._database), asyncio.get_running_loop().time() + PATIENCE
        return await patiently(self._database, lambda: once.attempt(work), until=until)
