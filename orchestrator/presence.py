"""How a worker process shows that it lives: an advisory lock that dies with its connection, and leases that it renews.

The lock is the fast sign: when the process dies, the database drops its session and with it the lock, and housekeeping
sees at once that its runs are orphans. The lease is the slow one, for a process that hangs or is cut off.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import structlog

from orchestrator import lifecycle
from orchestrator.db import Database
from orchestrator.settings import Settings

log = structlog.get_logger(__name__)

LOCK_CLASS = 0x0A551
"""The first key of our advisory locks; the second is a worker's number, or 0 for housekeeping."""


@asynccontextmanager
async def present(database: Database, settings: Settings) -> AsyncIterator[str]:
    """Hold the lock and renew the leases while the block runs; yields the owner's name under which to claim runs."""
    number = secrets.randbelow(2**31 - 1) + 1
    connection = await _lock(number, settings)
    heart = asyncio.create_task(_beat(connection, number, database, settings), name="heartbeat")
    try:
        yield str(number)
    finally:
        heart.cancel()
        await asyncio.gather(heart, return_exceptions=True)
        connection.terminate()


async def _lock(number: int, settings: Settings) -> asyncpg.Connection:
    timeout = settings.database_timeout
    connection = await asyncpg.connect(
        settings.database_url.get_secret_value(), timeout=timeout, command_timeout=timeout
    )
    await connection.execute("SELECT pg_advisory_lock($1, $2)", LOCK_CLASS, number)
    return connection


async def _beat(connection: asyncpg.Connection, number: int, database: Database, settings: Settings) -> None:
    try:
        while True:
            await asyncio.sleep(settings.run_lease / 3)
            try:
                if connection.is_closed():
                    connection = await _lock(number, settings)
                await connection.execute("SELECT 1")
                async with database.transaction() as session:
                    await lifecycle.renew(session, str(number), settings.run_lease)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.warning("heartbeat_failed", error=repr(error))
    finally:
        connection.terminate()
