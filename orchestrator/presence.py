"""How a worker process shows that it lives: an advisory lock that dies with its connection, and leases that it renews.

The lock is the fast sign: when the process dies, the database drops its session and with it the lock, and housekeeping
sees at once that its runs are orphans. The lease is the slow one, for a process that hangs or is cut off.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Protocol

import asyncpg
import structlog
from sqlalchemy.exc import SQLAlchemyError

from orchestrator import lifecycle
from orchestrator.background import background
from orchestrator.db import Database
from orchestrator.errors import RunCancelled, RunStopped
from orchestrator.settings import Settings

log = structlog.get_logger(__name__)

TROUBLE = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, SQLAlchemyError)

LOCK_CLASS = 0x0A551
"""The first key of our advisory locks; the second is a worker's number, or 0 for housekeeping."""


class Carrier(Protocol):
    """Whoever carries the runs of the process."""

    def carried(self) -> Collection[str]:
        """The ids of the runs that the process is at."""
        ...

    def interrupt(self, run_id: str, why: RunStopped) -> None:
        """Stop one of them."""
        ...


def new_owner() -> str:
    """A name under which a worker process claims runs: a number, for it is half of a lock's key too."""
    return str(secrets.randbelow(2**31 - 1) + 1)


@asynccontextmanager
async def present(owner: str, carrier: Carrier, database: Database, settings: Settings) -> AsyncIterator[None]:
    """Hold the owner's lock, and renew the leases of what it carries, while the block runs.

    A cancel whose signal was lost is found then, too: the run's next line may be as far away as the model is silent.
    """
    lock = _Lock(owner, settings)
    await lock.take()
    try:
        async with background(_beat(lock, owner, carrier, database, settings), "heartbeat"):
            yield
    finally:
        lock.drop()


class _Lock:
    """The owner's advisory lock, on a connection of its own."""

    def __init__(self, owner: str, settings: Settings) -> None:
        self._number = int(owner)
        self._url = settings.database_url.get_secret_value()
        self._timeout = settings.database_timeout
        self._connection: asyncpg.Connection | None = None

    async def take(self) -> None:
        """Hold it: take it if it is not held, and see that its session still answers if it is."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(self._url, timeout=self._timeout, command_timeout=self._timeout)
            try:
                await self._lock(self._connection)
            except BaseException:
                self.drop()
                raise
        await self._connection.execute("SELECT 1")

    async def _lock(self, connection: asyncpg.Connection) -> None:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", LOCK_CLASS, self._number):
            raise TimeoutError("a former session of this worker still holds its lock")  # one that waits would pile up

    def drop(self) -> None:
        """Let go of it, whatever state its connection is in."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


async def _beat(lock: _Lock, owner: str, carrier: Carrier, database: Database, settings: Settings) -> None:
    while True:
        await asyncio.sleep(settings.run_lease / 3)
        try:
            await lock.take()
            async with database.transaction() as session:
                cancelling = await lifecycle.renew(session, owner, carrier.carried(), settings.run_lease)
            for run_id in cancelling:
                carrier.interrupt(run_id, RunCancelled())
        except TROUBLE as error:  # the next beat tries again
            log.warning("heartbeat_failed", error=repr(error))
