"""How a worker process shows that it lives: an advisory lock that dies with its connection, and leases that it renews.

The lock is the fast sign: when the process dies, the database drops its session and with it the lock, and housekeeping
sees at once that its runs are orphans. The lease is the slow one, for a process that hangs or is cut off.

When Postgres itself restarts, all locks and leases end at the same moment although nobody is dead. So whoever loses its
lock takes it again at once, and judges nobody else (`may_judge`) before all others have had the time to do the same.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import asyncpg
import structlog
from sqlalchemy import Boolean, text
from sqlalchemy.exc import SQLAlchemyError

from orchestrator import lifecycle, roster
from orchestrator.background import background
from orchestrator.db import Database, Session, session_settings
from orchestrator.direct import connect
from orchestrator.errors import LeaseLost, RunCancelled, RunStopped
from orchestrator.settings import Settings
from orchestrator.vital_signs import LOCK_CLASS as LOCK_CLASS

log = structlog.get_logger(__name__)

TROUBLE = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, SQLAlchemyError)

RETAKE = 0.15
"""Seconds between tries to take a lock that was lost."""
SETTLING = 3.0
"""Seconds in which all workers have taken their locks again, once Postgres is back."""
IS_SETTLED = text(
    "SELECT pg_postmaster_start_time() < now() - make_interval(secs => :settling) AND EXISTS (SELECT FROM pg_locks"
    " WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid = :lock_class AND objid = :number"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
).columns(settled=Boolean)
LEAVING = 3.0
"""Seconds that a process waits for the database to strike it out of the roster."""


class Carrier(Protocol):
    """Whoever carries the runs of the process."""

    def carried(self) -> Mapping[str, int]:
        """The runs that the process is at, and its attempts at them."""
        ...

    def interrupt(self, run_id: str, why: RunStopped, attempt: int | None = None) -> None:
        """Stop one of them, if it is that attempt."""
        ...


def new_owner() -> str:
    """A name under which a worker process claims runs: a number, for it is half of a lock's key too."""
    return str(secrets.randbelow(2**31 - 1) + 1)


class Presence:
    """That a worker process lives, as its advisory lock: on a connection of its own."""

    def __init__(self, owner: str, settings: Settings) -> None:
        self.owner = owner
        self._url = settings.database_url.get_secret_value()
        self._timeout = settings.database_timeout
        self._session = session_settings(settings, settings.database_timeout)
        self._connection: asyncpg.Connection | None = None
        self._ended = asyncio.Event()
        self._taken: float | None = None
        self._takes = 0

    async def take(self) -> bool:
        """Hold the lock: take it if it is not held, and see that its session still answers if it is. False if a former
        session of ours, which Postgres has not given up yet, holds it: nobody takes us for dead meanwhile.
        """
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(
                self._url, timeout=self._timeout, command_timeout=self._timeout, server_settings=self._session
            )
            try:
                if not await self._lock(self._connection):
                    self.drop()
                    return False
            except BaseException:
                self.drop()
                raise
        try:
            await self._connection.execute("SELECT 1")
        except (TimeoutError, asyncpg.InternalClientError):  # no other end, or a driver that has lost its way for ever
            self.drop()
            raise
        return True

    async def _lock(self, connection: asyncpg.Connection) -> bool:
        connection.add_termination_listener(self._end)
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", LOCK_CLASS, int(self.owner)):
            return False  # sessions that wait would pile up
        self._taken = asyncio.get_running_loop().time()
        self._takes += 1
        return True

    def drop(self) -> None:
        """Let go of it, whatever state its connection is in."""
        if self._connection is not None:
            ended, self._connection = self._connection, None
            ended.terminate()

    def _end(self, connection: asyncpg.Connection) -> None:
        if connection is self._connection:
            self._ended.set()

    async def ended(self, within: float) -> None:
        """Return when the lock is lost, or after so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._ended.wait()
        self._ended.clear()

    async def may_judge(self, session: Session) -> bool:
        """Whether this worker may take others for dead: not while its own lock is lost, nor a moment after that, nor
        when Postgres has just been started. A worker that has just been started may: it replaces one that died.
        """
        if self._taken is None or self._connection is None or self._connection.is_closed():
            return False
        if self._takes > 1 and asyncio.get_running_loop().time() - self._taken < SETTLING:
            return False
        known = {"lock_class": LOCK_CLASS, "number": int(self.owner), "settling": SETTLING}
        return bool((await session.execute(IS_SETTLED, known)).scalar_one())


@asynccontextmanager
async def present(owner: str, carrier: Carrier, database: Database, settings: Settings) -> AsyncIterator[Presence]:
    """Hold the owner's lock, and renew the leases of what it carries, while the block runs.

    A cancel whose signal was lost is found then, too, and so is a run that somebody else has taken over: the run's next
    line may be as far away as the model is silent. A process that is started before its database waits for that.
    """
    shown = Presence(owner, settings)
    await database.back()
    if not await shown.take():
        raise TimeoutError("another worker holds the lock of this name")
    try:
        async with database.transaction() as session:
            await roster.enter(session, owner)
        async with background(_beat(shown, carrier, database, settings), "heartbeat"):
            yield shown
        await _leave(owner, database)
    finally:
        shown.drop()


async def _leave(owner: str, database: Database) -> None:
    """Go in order. Whoever cannot is looked for by housekeeping, as one that died."""
    with suppress(*TROUBLE):
        async with asyncio.timeout(LEAVING), database.transaction() as session:
            await roster.leave(session, owner)


async def _beat(shown: Presence, carrier: Carrier, database: Database, settings: Settings) -> None:
    pause = usual = settings.run_lease / 3
    while True:
        await shown.ended(within=pause)
        try:
            held = await shown.take()
            await _renew(shown.owner, carrier, database, settings)
        except Exception as error:  # whatever it was: without a heartbeat the worker would go on, and lose every run
            held = False
            if pause == usual:
                log.warning("heartbeat_failed", error=repr(error))
        else:
            if held and pause != usual:
                log.info("heartbeat_resumed")
        pause = usual if held else min(RETAKE, usual)


async def _renew(owner: str, carrier: Carrier, database: Database, settings: Settings) -> None:
    carried = carrier.carried()
    async with database.transaction() as session:
        await roster.enter(session, owner)  # it may have been taken for dead
        owned = await lifecycle.renew(session, owner, carried, settings.run_lease)
    for run_id, attempt in carried.items():
        current, status = owned.get(run_id, (None, None))
        if current != attempt:
            carrier.interrupt(run_id, LeaseLost(run_id), attempt)
        elif status == "cancelling":
            carrier.interrupt(run_id, RunCancelled(), attempt)
