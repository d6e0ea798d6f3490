"""One pub/sub connection per process, shared by everybody who listens to anything.

A message is handed to the callbacks of its channel, which must be quick and must not block: a slow listener buffers and
drops on its own side. Pub/sub forgets: whoever needs every message compares numbers and reads the stream again. When a
connection breaks, and once more when a subscription stands again, callbacks get None: "you may have missed something".
The client library reconnects without a word, so a second confirmation is the only sign of it. A connection whose other
end is gone says nothing either, so one that is silent is asked for a sign of life.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from orchestrator.background import background
from orchestrator.settings import Settings

log = structlog.get_logger(__name__)

Callback = Callable[[bytes | None], None]

IDLE = "subscriber:idle"
"""A channel without messages: a connection that listens to nothing would be closed."""


class Subscriber:
    """The listening side of a process."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._timeout = settings.redis_timeout
        self._callbacks: dict[str, set[Callback]] = {}
        self._confirmed: dict[str, asyncio.Event] = {}
        self._pubsub: PubSub | None = None
        self._away = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Subscriber"]:
        """Listen in the background while the block runs."""
        async with background(self._run(), "subscriber"):
            yield self

    @asynccontextmanager
    async def listening(self, channel: str, callback: Callback, *, at_once: bool = True) -> AsyncIterator[None]:
        """Call `callback` for each message of `channel` while the block runs; nothing is missed from its first line on.

        Raises TimeoutError if Redis does not confirm the subscription in time, or ConnectionError if it is away; unless
        it need not be `at_once`: then callbacks come once Redis is there.
        """
        callbacks = self._callbacks.setdefault(channel, set())
        callbacks.add(callback)
        confirmed = self._confirmed.setdefault(channel, asyncio.Event())
        try:
            # Whoever finds it unconfirmed subscribes: the one who did so first may have left in the middle of it.
            if not confirmed.is_set() and self._pubsub is not None:
                await self._pubsub.subscribe(channel)
            if at_once:
                await self._confirmation(confirmed)
            yield
        finally:
            callbacks.discard(callback)
            if not callbacks:
                self._callbacks.pop(channel, None)
                self._confirmed.pop(channel, None)
                await self._unsubscribe(channel)

    async def _confirmation(self, confirmed: asyncio.Event) -> None:
        if self._away:
            raise ConnectionError("Redis is away")
        async with asyncio.timeout(self._timeout):
            await confirmed.wait()

    async def _unsubscribe(self, channel: str) -> None:
        if self._pubsub is not None:
            try:
                await self._pubsub.unsubscribe(channel)
            except (RedisError, OSError) as error:
                log.debug("unsubscribe_failed", error=repr(error))

    async def _run(self) -> None:
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    await pubsub.subscribe(IDLE)
                    self._pubsub = pubsub  # from here on, whoever listens subscribes; those who came before, now
                    if self._callbacks:
                        await pubsub.subscribe(*self._callbacks)
                    await self._hear(pubsub)
            except Exception as error:  # whatever it was: nobody in this process would hear anything any more
                if not self._away:
                    log.warning("subscription_lost", error=repr(error))
                self._away = True
            finally:
                self._pubsub = None
            for channel in tuple(self._callbacks):
                self._call(channel, None)
            await asyncio.sleep(0.2)

    async def _hear(self, pubsub: PubSub) -> None:
        """Hand over what comes, until nothing comes any more: not even an answer."""
        asked = False
        while True:
            message = await pubsub.get_message(timeout=self._timeout)
            if message is not None:
                asked = self._away = False
                if message["channel"] is not None:
                    self._hand_over(message["type"], message["channel"].decode(), message["data"])
            elif asked:
                raise TimeoutError("no sign of life")
            else:
                asked = True
                await pubsub.ping(IDLE)

    def _hand_over(self, kind: str, channel: str, data: bytes) -> None:
        if kind == "subscribe" and channel in self._confirmed:
            if self._confirmed[channel].is_set():
                self._call(channel, None)
            self._confirmed[channel].set()
        elif kind == "message":
            self._call(channel, data)

    def _call(self, channel: str, message: bytes | None) -> None:
        for callback in tuple(self._callbacks.get(channel, ())):
            try:
                callback(message)
            except Exception as error:  # one listener's trouble is not the others'
                log.error("callback_failed", channel=channel, error=repr(error))
