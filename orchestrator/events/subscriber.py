"""One pub/sub connection per process, shared by everybody who listens to anything.

A message is handed to the callbacks of its channel, which must be quick and must not block: a slow listener buffers and
drops on its own side. Pub/sub forgets: whoever needs every message compares numbers and reads the stream again. When a
connection breaks, and once more when a subscription stands again, callbacks get None: "you may have missed something".
A connection whose other end is gone says nothing, so one that is silent is asked for a sign of life.

Streams are read over another connection: Redis cuts off subscribers for whom too much waits, and a hundred listeners
that come back at once may ask for a lot.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import hiredis
import structlog
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import ResponseError
from typing_extensions import override

from orchestrator.background import background
from orchestrator.events.line import Line, Push, Shared, pack
from orchestrator.foreign import Json
from orchestrator.settings import Settings

log = structlog.get_logger(__name__)

Callback = Callable[[bytes | None], None]

IDLE = "subscriber:idle"
"""A channel without messages: that it is confirmed says that the connection stands."""
AGAIN, AT_ONCE = 0.2, 0.01
"""Seconds between two attempts to connect while Redis is away, and before the first one once a connection broke."""


class _Channel:
    """Who listens to it, and who waits until the subscription stands."""

    __slots__ = ("callbacks", "confirmed", "name", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.callbacks: tuple[Callback, ...] = ()
        self.confirmed = False
        self.waiting: list[asyncio.Future[None]] = []

    def confirm(self) -> None:
        self.confirmed = True
        for waiter in self.waiting:
            if not waiter.done():
                waiter.set_result(None)
        self.waiting.clear()


class Subscriber:
    """The listening side of a process."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._timeout = settings.redis_timeout
        self._channels: dict[bytes, _Channel] = {}
        self._line: Line | None = None
        self._reading = Shared(redis, settings.redis_timeout)
        self._away = False
        self._stood = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Subscriber"]:
        """Listen in the background while the block runs."""
        async with background(self._run(), "subscriber"):
            try:
                yield self
            finally:
                await self._reading.close()

    async def read(self, *command: str | bytes | int) -> Json:
        """The answer to a command that reads. Raises RedisError."""
        (answer,) = await self._reading.ask(pack(*command))
        if isinstance(answer, hiredis.ReplyError):
            raise ResponseError(str(answer))
        return answer

    def listening(self, channel: str, callback: Callback, *, at_once: bool = True) -> AbstractAsyncContextManager[None]:
        """Call `callback` for each message of `channel` while the block runs; nothing is missed from its first line on.

        Raises TimeoutError if Redis does not confirm the subscription in time, or ConnectionError if it is away; unless
        it need not be `at_once`: then callbacks come once Redis is there.
        """
        return _Listening(self, channel, callback, at_once)

    def _add(self, channel: str, callback: Callback) -> _Channel:
        name = channel.encode()
        entry = self._channels.get(name)
        if entry is None:
            entry = self._channels[name] = _Channel(channel)
            self._say("SUBSCRIBE", name)
        entry.callbacks = (*entry.callbacks, callback)
        return entry

    def _remove(self, entry: _Channel, callback: Callback) -> None:
        listeners = list(entry.callbacks)
        listeners.remove(callback)
        entry.callbacks = tuple(listeners)
        if not listeners:
            del self._channels[entry.name.encode()]
            self._say("UNSUBSCRIBE", entry.name)

    async def _confirmation(self, entry: _Channel) -> None:
        if self._away:
            raise ConnectionError("Redis is away")
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        entry.waiting.append(waiter)
        patience = loop.call_later(self._timeout, _give_up, waiter)
        try:
            await waiter
        finally:
            patience.cancel()

    def _say(self, *command: str | bytes) -> None:
        if self._line is not None:  # otherwise the next one begins with all channels there are
            self._line.say(pack(*command))

    async def _run(self) -> None:
        while True:
            try:
                line = await Line.opened(self._redis, self._timeout, self._hear)
                try:
                    line.say(pack("SUBSCRIBE", IDLE, *self._channels))
                    self._line = line  # from here on, whoever listens subscribes
                    await self._stay(line)
                finally:
                    self._line = None
                    line.close()
            except Exception as error:  # whatever it was: nobody in this process would hear anything any more
                if not self._away:
                    log.warning("subscription_lost", error=repr(error))
                self._away = not (self._stood and isinstance(error, ConnectionLost))
                self._stood = False
            for entry in tuple(self._channels.values()):
                self._tell(entry, None)
            await asyncio.sleep(AGAIN if self._away else AT_ONCE)

    async def _stay(self, line: Line) -> None:
        """Raise once nothing comes any more: not even an answer."""
        loop = asyncio.get_running_loop()
        while True:
            silent = loop.time() - line.heard_at
            if silent >= self._timeout:
                await line.ask(pack("PING"))
                silent = 0.0
            await asyncio.wait((line.lost,), timeout=self._timeout - silent)
            if line.lost.done():
                raise line.lost.result()

    def _hear(self, push: Push) -> None:
        entry = self._channels.get(push[1])
        if push[0] == b"message":
            if entry is not None:
                self._tell(entry, push[2])
        elif push[0] == b"subscribe":
            self._away, self._stood = False, True
            if entry is not None:
                if entry.confirmed:
                    self._tell(entry, None)
                entry.confirm()

    def _tell(self, entry: _Channel, message: bytes | None) -> None:
        for callback in entry.callbacks:
            try:
                callback(message)
            except Exception as error:  # one listener's trouble is not the others'
                log.error("callback_failed", channel=entry.name, error=repr(error))


class _Listening(AbstractAsyncContextManager[None]):
    """See `Subscriber.listening`. (A generator for each stream would cost more than all else that is done here.)"""

    def __init__(self, subscriber: Subscriber, channel: str, callback: Callback, at_once: bool) -> None:
        self._subscriber = subscriber
        self._what = (channel, callback)
        self._at_once = at_once

    @override
    async def __aenter__(self) -> None:
        self._entry = self._subscriber._add(*self._what)
        if self._at_once and not self._entry.confirmed:
            try:
                await self._subscriber._confirmation(self._entry)
            except BaseException:
                self._subscriber._remove(self._entry, self._what[1])
                raise

    @override
    async def __aexit__(self, *_error: object) -> None:
        self._subscriber._remove(self._entry, self._what[1])


def _give_up(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError("Redis does not confirm a subscription"))
