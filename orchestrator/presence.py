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
    connection = await _lock(owner, settings)
    async with background(_beat(connection, owner, carrier, database, settings), "heartbeat"):
        yield


async def _lock(owner: str, settings: Settings) -> asyncpg.Connection:
    timeout = settings.database_timeout
    connection = await asyncpg.connect(
        settings.database_url.get_secret_value(), timeout=timeout, command_timeout=timeout
    )
    try:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", LOCK_CLASS, int(owner)):
            raise TimeoutError("a former session of this worker still holds its lock")  # one that waits would pile up
    except BaseException:
        connection.terminate()
        raise
    return connection


async def _beat(
    connection: asyncpg.Connection, owner: str, carrier: Carrier, database: Database, settings: Settings
) -> None:
    try:
        while True:
            await asyncio.sleep(settings.run_lease / 3)
            try:
                if connection.is_closed():
                    connection = await _lock(owner, settings)
                await connection.execute("SELECT 1")
                async with database.transaction() as session:
                    cancelling = await lifecycle.renew(session, owner, carrier.carried(), settings.run_lease)
                for run_id in cancelling:
                    carrier.interrupt(run_id, RunCancelled())
            except TROUBLE as error:  # the next beat tries again
                log.warning("heartbeat_failed", error=repr(error))
    finally:
        connection.terminate()
