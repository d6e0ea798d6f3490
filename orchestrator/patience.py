"""Transactions that are carried out once, however often the database goes away in the middle of them.

    try ─▶ committed ─▶ told
     ▲ ├─▶ failed before its commit ────▶ wait until the database answers ─┐
     │ └─▶ the commit was not answered ─▶ wait, and look it up ─▶ told, if it was committed
     └─────────────────────────────────────────────────────────┴───────────┘

What is repeated is the whole transaction. A commit whose answer was lost must not be repeated blindly: it would open a
second message, or find that the run is over and take that for somebody else's doing. So Postgres is asked what became
of it, by the number that it had there (`Session.xid`).
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import structlog
from sqlalchemy import text

from orchestrator import db
from orchestrator.db import Database, Session
from orchestrator.events.frames import Track
from orchestrator.foreign import Json

log = structlog.get_logger(__name__)

T = TypeVar("T")
Work = Callable[[Session], Awaitable[T]]

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between tries while the database answers, but not to this (a full disk, say)."""
FATE = text("SELECT pg_xact_status(CAST(CAST(:xid AS text) AS xid8))")


class _Doubt(Generic[T]):
    """A transaction whose commit was not answered, and what it was to result in."""

    def __init__(self, session: Session, work: Work[T], result: T) -> None:
        self.session = session
        self.work = work
        self.result = result


class Once:
    """Carries out transactions one after the other, each once. `track` is the attempt's whose events they tell."""

    def __init__(self, database: Database, track: Track | None = None) -> None:
        self._database = database
        self._track = track
        self._doubt: _Doubt[Json] | None = None

    @property
    def doubtful(self) -> bool:
        """Whether it is not known what has become of a commit."""
        return self._doubt is not None

    async def attempt(self, work: Work[T]) -> T:
        """Try to carry it out; what raises may be tried again with the same `work`, and then happens once.

        The work must have asked for its `Session.xid` if it writes.
        """
        known: _Doubt[Json] | None = self._doubt
        if known is not None and await self._has_happened(known) and known.work is work:
            result: T = known.result
            return result
        doubt: _Doubt[T] | None = None
        try:
            async with self._database.transaction(self._track) as session:
                doubt = _Doubt(session, work, await work(session))
        except BaseException:
            if doubt is not None and not doubt.session.committed and doubt.session.xid is not None:
                self._doubt = doubt
            raise
        return doubt.result

    async def _has_happened(self, doubt: _Doubt[Json]) -> bool:
        async with self._database.transaction() as session:
            fate = (await session.execute(FATE, {"xid": doubt.session.xid})).scalar_one()
        if fate == "in progress":
            raise TimeoutError("Postgres has not noticed yet that a session of ours is over")
        self._doubt = None
        if fate == "committed":
            await self._database.tell(doubt.session)
        return bool(fate == "committed")


async def patiently(
    database: Database, attempt: Callable[[], Awaitable[T]], *, until: float, check: Callable[[], None] = lambda: None
) -> T:
    """What `attempt` returns: tried again while the database is away or too busy, until that time of the loop's clock.

    `check` is called before each pause and may raise. Raises what the last try raised.
    """
    tries, pause = 1, FIRST_PAUSE
    while True:
        try:
            result = await attempt()
        except Exception as error:
            if not db.passes(error):
                raise
            if tries == 1:
                log.warning("transaction_delayed", error=db.describe(error))
            check()
            if not await _wait(database, pause, until):
                raise
        else:
            if tries > 1:
                log.info("transaction_done", tries=tries)
            return result
        tries, pause = tries + 1, min(2 * pause, LONGEST_PAUSE)


async def _wait(database: Database, pause: float, until: float) -> bool:
    """Wait until it may be tried again; False if it is too late for that."""
    try:
        async with asyncio.timeout_at(until):
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # spreads load, guards nothing
            await database.back()
    except TimeoutError:
        return False
    return True
