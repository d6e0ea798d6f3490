"""One connection to Redis for many small commands: what is asked is written at once, and answers come in its order.

The client library costs some 60 µs for a round trip and 15 µs for each command or message; this costs one or two. The
library opens the connection (addresses, TLS, passwords, RESP3 are its business) and hands over the socket. A line that
is lost stays lost: whoever asked, or asks, is told why, and opens another one. An answer is waited for as long as
anything comes: silence of `timeout` seconds while somebody waits means that the line is lost. Whoever is cancelled
while it waits is gone at once; its answers are dropped when they come.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import cast

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as TookTooLong
from typing_extensions import override

from orchestrator.background import end
from orchestrator.foreign import Json

Push = list[Json]
"""What Redis says unasked: its kind first."""
Answers = list[Json]
"""To each command one; a `hiredis.ReplyError` where Redis refused it."""


Unasked = hiredis.PushNotification


def pack(*words: str | bytes | int) -> bytes:
    """A command as it goes over a line. Raises ValueError for text that is no Unicode."""
    packed: bytes = hiredis.pack_command(cast("Json", words))  # its stub knows commands of one word only
    return packed


class Line(asyncio.Protocol):
    """Open it with `opened`. `heard_at` is when something came last, in the loop's time."""

    def __init__(self, timeout: float, hear: Callable[[Push], None] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[Exception] = self._loop.create_future()
        """Done, with the reason, once the line is of no use any more."""
        self.heard_at = self._loop.time()
        self._timeout = timeout
        self._hear = hear
        self._reader = hiredis.Reader(notEnoughData=Ellipsis)
        self._waiting: deque[tuple[asyncio.Future[Answers], int, Answers]] = deque()
        self._watch: asyncio.TimerHandle | None = None

    @classmethod
    async def opened(cls, redis: Redis, timeout: float, hear: Callable[[Push], None] | None = None) -> "Line":
        """A line to the client's server; `hear` is given what comes unasked, and must be quick. Raises RedisError."""
        pool: Json = redis.connection_pool
        connection: Json = pool.make_connection()
        try:
            async with asyncio.timeout(timeout):
                await connection.connect()
        except TimeoutError:
            await connection.disconnect(nowait=True)
            raise TookTooLong("Redis does not answer") from None
        except asyncio.CancelledError:
            await connection.disconnect(nowait=True)
            raise
        line = cls(timeout, hear)
        line._take(connection)
        return line

    def ask(self, packed: bytes, commands: int = 1) -> "asyncio.Future[Answers]":
        """Send commands; the future brings an answer to each. It fails with RedisError if the line is lost."""
        answers: asyncio.Future[Answers] = self._loop.create_future()
        if self.lost.done():
            answers.set_exception(ConnectionLost(str(self.lost.result())))
            return answers
        if not self._waiting:
            self.heard_at = self._loop.time()  # silence counts from here
        self._waiting.append((answers, commands, []))
        if self._watch is None:
            self._watch = self._loop.call_later(self._timeout, self._look)
        self._transport.write(packed)
        return answers

    def say(self, packed: bytes) -> None:
        """Send commands that are answered by pushes, if at all."""
        if not self.lost.done():
            self._transport.write(packed)

    def close(self) -> None:
        """Let go of the connection."""
        self._lose(ConnectionLost("closed"))

    @override
    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        gets, hear, waiting = self._reader.gets, self._hear, self._waiting
        try:
            self._reader.feed(data)
            while (said := gets()) is not Ellipsis:
                if type(said) is Unasked:
                    if hear is not None:
                        hear(said)
                elif waiting:
                    asked, commands, answers = waiting[0]
                    answers.append(said)
                    if len(answers) == commands:
                        waiting.popleft()
                        if not asked.done():
                            asked.set_result(answers)
                else:
                    raise ConnectionLost(f"nobody asked for {said!r}")
        except Exception as error:
            self._lose(error if isinstance(error, RedisError) else ConnectionLost(repr(error)))

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(ConnectionLost(str(exc or "Redis has closed the connection")))

    def _take(self, connection: AbstractConnection) -> None:
        writer, connection._reader, connection._writer = connection._writer, None, None
        if writer is None:
            raise ConnectionLost("Redis has closed the connection")
        self._writer = writer  # it would close the transport if nobody held it
        self._transport = writer.transport
        self._transport.set_protocol(self)
        if self._transport.is_closing():
            self._lose(ConnectionLost("Redis has closed the connection"))

    def _look(self) -> None:
        self._watch = None
        if not self._waiting:
            return
        left = self.heard_at + self._timeout - self._loop.time()
        if left <= 0:
            self._lose(TookTooLong("Redis does not answer"))
        else:
            self._watch = self._loop.call_later(left, self._look)

    def _lose(self, error: Exception) -> None:
        if self.lost.done():
            return
        self.lost.set_result(error)
        if self._watch is not None:
            self._watch.cancel()
        self._transport.abort()
        for asked, _, _ in self._waiting:
            if not asked.done():
                asked.set_exception(type(error)(*error.args))  # each its own: tracebacks would grow together
        self._waiting.clear()


class Shared:
    """A line for all of a process: opened when something is asked first, and anew once it is lost."""

    def __init__(self, redis: Redis, timeout: float) -> None:
        self._redis = redis
        self._timeout = timeout
        self._line: Line | None = None
        self._opening: asyncio.Task[Line] | None = None

    async def ask(self, packed: bytes, commands: int = 1) -> Answers:
        """The answers to commands that may be given twice: a line that was idle may turn out to be closed, and they
        are given again over a new one. Raises RedisError.
        """
        if self._line is not None:
            with suppress(ConnectionLost):
                return await self._line.ask(packed, commands)
        line = await self._opened()
        return await line.ask(packed, commands)

    async def close(self) -> None:
        """Let go of the connection."""
        if self._opening is not None:
            await end(self._opening)
        if self._line is not None:
            self._line.close()

    async def _opened(self) -> Line:
        """A line that stands; whoever comes while it is opened waits for the same."""
        if self._line is not None and not self._line.lost.done():
            return self._line
        if self._opening is None:
            self._opening = asyncio.create_task(Line.opened(self._redis, self._timeout), name="line")
            self._opening.add_done_callback(self._keep)
        return await asyncio.shield(self._opening)

    def _keep(self, opening: "asyncio.Task[Line]") -> None:
        self._opening = None
        if not opening.cancelled() and opening.exception() is None:
            self._line = opening.result()
