"""What can be seen of a worker process from outside: that its lock is held, and when its session has last spoken.

The lock dies with the process, and its session speaks at each heartbeat, a third of a lease apart (see `presence`). So
the age of its last word tells a process that works from one that hangs, and nothing has to be written down for it.
Asked by a command that is started every few seconds, hence without the ORM, which takes a second to import.
"""

import asyncio

import asyncpg

from orchestrator.direct import connect

LOCK_CLASS = 0x0A551
"""The first key of our advisory locks; the second is a worker's number, or 0 for housekeeping."""
LAST_WORD = """
    SELECT extract(epoch FROM min(clock_timestamp() - session.state_change))::float8
    FROM workers
    JOIN pg_locks AS held ON held.locktype = 'advisory' AND held.granted AND held.objsubid = 2
        AND held.classid::bigint = $1 AND held.objid::bigint::text = workers.owner
        AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    JOIN pg_stat_activity AS session ON session.pid = held.pid
    WHERE starts_with(workers.name, $2)
"""


async def last_word(url: str, host: str, timeout: float) -> float | None:
    """Seconds since a worker process of this host was last heard of; None if none of them holds its lock. Takes at most
    `timeout` seconds in all. Raises asyncpg's errors, OSError and TimeoutError.
    """
    async with asyncio.timeout(timeout):
        connection: asyncpg.Connection = await connect(url, timeout=timeout)
        try:
            age: float | None = await connection.fetchval(LAST_WORD, LOCK_CLASS, f"{host}:")
            await connection.close()
        except BaseException:
            connection.terminate()  # to close it would be to wait once more
            raise
    return age
