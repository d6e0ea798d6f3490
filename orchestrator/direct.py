"""Statements that go to Postgres directly: one round trip each, beside the ORM and without its cost.

A statement is a transaction of its own. It is for what every run and every hot request does, and is written so that it
may be repeated: when its answer was lost, nobody knows whether it was carried out. What raises is asyncpg's own;
`db.passes` tells whether it may succeed a little later.

JSON columns come and go as Python values. What is fetched are asyncpg's records: rows with the columns' names.

The connections are lent by a small pool of our own. asyncpg's takes two tasks and three timers for each statement, for
what none of these needs: a way back to how the connection was, whoever is cancelled meanwhile.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import asyncpg
import orjson

from orchestrator.foreign import Json

PLANS: Final = {
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    "enable_incremental_sort": "off",
}
"""Rows are found by an index, one after the other and in its order, however little Postgres knows of the tables when it
makes its plan, which it then keeps: it would rather collect all messages of a long thread, and sort them, than walk to
the last ones. Left to itself it would also make some plans anew each time, which takes longer than carrying them out.
"""
CONNECTIONS: Final = 4
"""Connections of a process beside those of the ORM: statements are short, and batches of them take turns."""
IDLE: Final = 300.0
"""Seconds after which a connection is closed that nobody has needed."""


class Direct:
    """A few connections of this process. They are made when they are needed, and made anew when they are lost."""

    def __init__(
        self, url: str, session: dict[str, str], timeout: float, queue: float, connections: int = CONNECTIONS
    ) -> None:
        """Connect to `url` with the server settings `session`. A statement, and connecting, take at most `timeout`
        seconds, and wait at most `queue` seconds for one of the `connections`.
        """
        self._url = url
        self._session = {**session, **PLANS}
        self._timeout = timeout
        self._pool = Connections(self._connect, connections, queue)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Direct"]:
        """Statements can be sent while the block runs; those under way at its end are cut."""
        self._pool.open()
        try:
            yield self
        finally:
            self._pool.close()
            await asyncio.sleep(0)  # transports close in the next turn of the loop

    async def fetch(self, statement: str, *arguments: Json) -> list[Json]:
        """Carry out a statement; returns its rows. Raises asyncpg's errors, OSError and TimeoutError."""
        pool = self._pool
        connection = pool.free() or await pool.wait()
        try:
            found: list[Json] = await connection.fetch(statement, *arguments)
        except (asyncpg.PostgresError, asyncpg.InterfaceError):  # refused, by the server or by the driver
            raise
        except BaseException:  # the driver has lost its way, the server hangs, or we are no longer waited for
            connection.terminate()  # else it would have to be waited for once more
            raise
        finally:
            pool.give_back(connection)
        return found

    async def _connect(self) -> Json:
        connection = await connect(
            self._url, timeout=self._timeout, command_timeout=self._timeout, server_settings=self._session
        )
        for name in ("json", "jsonb"):
            await connection.set_type_codec(
                name, schema="pg_catalog", encoder=_encoded, decoder=orjson.loads, format="text"
            )
        return connection


class Connections:
    """At most `most` connections, each made by `make` when no other is free, and lent to one caller at a time. Who has
    to wait for one is served in turn, and waits at most `queue` seconds.
    """

    def __init__(self, make: Callable[[], Awaitable[Json]], most: int, queue: float) -> None:
        self._make = make
        self._queue = queue
        self._unmade = most
        self._made: set[Json] = set()
        self._free: list[Json] = []  # the last one that came back goes first
        self._unneeded = 0  # so many at the bottom have not been lent since the last look
        self._waiting: deque[asyncio.Future[Json]] = deque()
        self._looking: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Lend from now on."""
        self._look()

    def close(self) -> None:
        """Cut all connections, lent or not, and refuse whoever waits."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        for connection in [*self._made]:
            connection.terminate()
        while self._waiting:
            if not (waiter := self._waiting.popleft()).done():
                waiter.set_exception(_closed())

    def free(self) -> Json | None:
        """One that is free, if any is. It is to be given back."""
        while self._free:
            connection = self._free.pop()
            if len(self._free) < self._unneeded:
                self._unneeded -= 1
            if not connection.is_closed():
                return connection
            self._end(connection)
        return None

    async def wait(self) -> Json:
        """The next one that comes free, or a new one. It is to be given back. Raises TimeoutError, and what `make`
        raises.
        """
        async with asyncio.timeout(self._queue):
            if self._unmade:
                self._unmade -= 1
                return await self._new()
            connection = await self._turn()
            return await self._new() if connection is None else connection

    def give_back(self, connection: Json) -> None:
        """Lend it to the next, if it has not been lost."""
        if connection.is_closed():
            self._end(connection)
        else:
            self._pass_on(connection)

    async def _new(self) -> Json:
        try:
            self._check()
            connection = await self._make()
        except BaseException:
            self._pass_on(None)
            raise
        self._made.add(connection)
        if self._looking is None:  # it was closed meanwhile
            connection.terminate()
        return connection

    def _check(self) -> None:
        if self._looking is None:
            raise _closed()

    async def _turn(self) -> Json | None:
        """Wait for one that comes free, or for leave to make one: None."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except BaseException:
            if waiter.cancelled():
                with suppress(ValueError):  # it may have been passed over already
                    self._waiting.remove(waiter)
            elif waiter.exception() is None:  # it came as we left
                self._pass_on(waiter.result())
            raise

    def _pass_on(self, connection: Json | None) -> None:
        while self._waiting:
            if not (waiter := self._waiting.popleft()).done():
                waiter.set_result(connection)
                return
        if connection is None:
            self._unmade += 1
        else:
            self._free.append(connection)

    def _end(self, connection: Json) -> None:
        self._made.discard(connection)
        connection.terminate()  # one that was lost has something to clear away, too
        self._pass_on(None)

    def _look(self) -> None:
        """Close what nobody has needed for a while."""
        idle, self._free = self._free[: self._unneeded], self._free[self._unneeded :]
        for connection in idle:
            self._end(connection)
        self._unneeded = len(self._free)
        self._looking = asyncio.get_running_loop().call_later(IDLE, self._look)


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


def _closed() -> asyncpg.InterfaceError:
    return asyncpg.InterfaceError("the way to the database is closed")


def _encoded(value: Json) -> str:
    return orjson.dumps(value).decode()
