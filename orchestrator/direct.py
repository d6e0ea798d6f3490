"""Statements that go to Postgres directly: one round trip each, beside the ORM and without its cost.

A statement is a transaction of its own. It is for what every run and every hot request does, and is written so that it
may be repeated: when its answer was lost, nobody knows whether it was carried out. What raises is asyncpg's own;
`db.passes` tells whether it may succeed a little later.

JSON columns come and go as Python values. What is fetched are asyncpg's records: rows with the columns' names.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import orjson

from orchestrator.foreign import Json

PLANS: Final = {
    "jit": "off",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    "enable_incremental_sort": "off",
}
"""Rows are found by an index, one after the other and in its order, however little Postgres knows of the tables when it
makes its plan, which it then keeps: it would rather collect all messages of a long thread, and sort them, than walk to
the last ones.
"""
CONNECTIONS: Final = 4
"""Connections of a process beside those of the ORM: statements are short, and batches of them take turns."""


class Direct:
    """A few connections of this process. They are made when they are needed, and made anew when they are lost."""

    def __init__(self, url: str, session: dict[str, str], timeout: float, queue: float) -> None:
        """Connect to `url` with the server settings `session`. A statement, and connecting, take at most `timeout`
        seconds, and wait at most `queue` seconds for a connection.
        """
        self._url = url
        self._session = {**session, **PLANS}
        self._timeout = timeout
        self._queue = queue
        self._pool: Json = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Direct"]:
        """Statements can be sent while the block runs; those under way at its end are cut."""
        self._pool = asyncpg.create_pool(
            self._url,
            min_size=0,
            max_size=CONNECTIONS,
            timeout=self._timeout,
            command_timeout=self._timeout,
            server_settings=self._session,
            connect=connect,
            init=_codecs,
            reset=_leave_as_it_is,
        )
        await self._pool  # connects to nothing yet
        try:
            yield self
        finally:
            self._pool.terminate()
            await asyncio.sleep(0)  # transports close in the next turn of the loop

    async def fetch(self, statement: str, *arguments: Json) -> list[Json]:
        """Carry out a statement; returns its rows. Raises asyncpg's errors, OSError and TimeoutError."""
        connection = await self._pool.acquire(timeout=self._queue)
        try:
            found: list[Json] = await connection.fetch(statement, *arguments)
        except (asyncpg.InternalClientError, TimeoutError):  # the driver has lost its way, or the server hangs
            connection.terminate()  # else the pool would wait for it once more
            raise
        finally:
            await self._pool.release(connection)
        return found


async def connect(*address: Json, **how: Json) -> Json:
    """A connection of asyncpg's, made as it is told. Raises ConnectionError whatever the reason is for which the server
    cannot be reached: what the system says of hosts, routes and sockets are errors of many kinds.
    """
    try:
        return await asyncpg.connect(*address, **how)
    except (ConnectionError, TimeoutError):
        raise
    except OSError as error:
        raise ConnectionError(str(error)) from error


async def _codecs(connection: Json) -> None:
    for name in ("json", "jsonb"):
        await connection.set_type_codec(
            name, schema="pg_catalog", encoder=_encoded, decoder=orjson.loads, format="text"
        )


async def _leave_as_it_is(_connection: Json) -> None:
    """Nothing to reset: there is never a transaction, a lock or a setting."""


def _encoded(value: Json) -> str:
    return orjson.dumps(value).decode()
