"""kombu's Redis transport, which takes and acknowledges many messages in one round trip.

Stock, each message costs two commands that the worker waits for (it is noted as unacknowledged, later struck off): four
fifths of what an empty task costs. Here one script does all of it, for as many messages as there are; see
`workers.batches`.

    nothing waits    BRPOP ──message──▶ TAKE: what ended struck off, the message noted, more taken ──▶ delivered … ended
    something does              TAKE: what ended struck off, more taken ──▶ delivered … ended

Keys and messages are those of the stock transport: workers of both kinds, and other releases, can share a queue.

What must not be forgotten:

- What ended is struck off with the next messages that are taken; if none are for a moment, by itself, and at once where
  it takes up the room for others. Until Redis knows, it counts against the prefetch limit. So the limit holds for what
  Redis counts, and what is kept of acknowledgements that cannot be sent is bounded; they are sent when they can be.
  Should the process or the connection be lost before, their messages come again after the visibility timeout, and the
  claim in Postgres finds nothing to do.
- A message that BRPOP brings is lost if this process dies before it is noted.
- A Redis that is full, or may not be written to, refuses to note. A message in hand is carried out all the same.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from queue import Empty
from typing import TYPE_CHECKING

import structlog
from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.transport import redis as stock
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry

from orchestrator.foreign import Json
from workers import batches, turns

BATCH = 100
"""Messages taken at once, at most: they are delivered before the hub looks at anything else."""
STRUCK = 1000
"""Messages struck off at once, at most, on the way of taking others."""
PAUSE = 1.0
"""Seconds until a Redis that refused is asked again."""

log = structlog.get_logger(__name__)


class QoS(stock.QoS):
    """What is unacknowledged of one channel. `ended` is known to be over, and Redis does not know yet."""

    if TYPE_CHECKING:  # kombu's own, of which its types do not tell
        channel: Json
        prefetch_count: int
        _delivered: Json
        _dirty: set[str]
        _flush: Callable[[], None]
        _quick_append: Callable[[str, Json], None]

    def __init__(self, *args: Json, **kwargs: Json) -> None:
        super().__init__(*args, **kwargs)
        self._ended: dict[str, None] = {}  # a signal handler may strike off what we are about to
        self._noted: set[str] = set()
        self._refused = False
        self._pause_until = 0.0

    def expect(self, tags: list[str]) -> None:
        """Count messages that Redis has noted and that are about to be delivered; what is not, will be given back."""
        if self._dirty:
            self._flush()
        for tag in tags:
            self._noted.add(tag)
            self._quick_append(tag, None)

    def append(self, message: Json, delivery_tag: str) -> None:
        """Count a message, and have Redis note it unless it has."""
        if delivery_tag in self._noted:
            self._noted.discard(delivery_tag)
            virtual.QoS.append(self, message, delivery_tag)
            return
        try:
            super().append(message, delivery_tag)
        except ResponseError as refusal:
            self.refused(refusal)
            virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge: now if nobody would do it later."""
        self._ended[delivery_tag] = None
        cycle = self.channel.connection.cycle
        if cycle.looped:
            cycle.flush_later(self.channel)
        else:
            self.flush()

    def flush(self, now: bool = True) -> None:
        """Send what acknowledgements there are; if that fails they are kept. Raises nothing that concerns Redis."""
        if not self._ended or (not now and time.monotonic() < self._pause_until):
            return
        tags = list(self._ended)
        try:
            with self.channel.conn_or_acquire() as client, client.pipeline() as pipe:
                pipe.zrem(self.unacked_index_key, *tags).hdel(self.unacked_key, *tags).execute()
        except (*self.channel.connection_errors, ResponseError) as error:
            self._pause_until = time.monotonic() + PAUSE
            self.refused(error)
            return
        self.struck(tags)

    def room(self, most: int) -> tuple[int, list[str]]:
        """How many messages may be taken, of so many, once the tags are struck off that come with the number."""
        ended = list(islice(self._ended, STRUCK))
        if not self.prefetch_count:
            return most, ended
        known = len(self._delivered) - len(self._dirty)  # more than the limit, if that was lowered
        return max(0, min(most, self.prefetch_count - known + len(ended))), ended

    def struck(self, tags: list[str]) -> None:
        """Redis knows that these are over."""
        self._refused = False
        for tag in tags:
            self._ended.pop(tag, None)
            super(stock.QoS, self).ack(tag)

    def refused(self, error: Exception) -> None:
        """Say so, once."""
        if not self._refused:
            self._refused = True
            log.warning("broker_refuses", error=repr(error))

    def restore_unacked_once(self, stderr: Json = None) -> None:
        """Give back what is not acknowledged. What ended is none of it, even if that could not be said."""
        self.flush()
        for tag in self._ended:
            self._delivered.pop(tag, None)
        if self._ended:
            log.warning("acknowledgements_lost", count=len(self._ended))
            self._ended.clear()
        super().restore_unacked_once(stderr)


class Channel(stock.Channel):
    """A channel that reads batches from the queues that are acknowledged."""

    QoS = QoS
    if TYPE_CHECKING:  # kombu's own, of which its types do not tell
        connection: Json
        connection_errors: tuple[type[Exception], ...]
        global_keyprefix: str
        qos: Json
        _closing: bool
        _qos: Json
        _queue_cycle: Json
        _flush_brpop_reauth: Callable[[], None]
        _create_client: Callable[[], Json]
        _q_for_pri: Callable[[str, int], str]

    def __init__(self, *args: Json, **kwargs: Json) -> None:
        self._acknowledged: set[str] = set()
        self._commands: Json = None
        self._refused_until = 0.0
        self._waits = False  # more messages, as far as we know
        super().__init__(*args, **kwargs)

    def basic_consume(self, queue: str, no_ack: bool, *args: Json, **kwargs: Json) -> Json:
        """Consume from `queue`; answers to remote control are not acknowledged, so they are not noted either."""
        if not no_ack and self.ack_emulation:
            self._acknowledged.add(queue)
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def conn_or_acquire(self, client: Json = None) -> AbstractContextManager[Json]:  # type: ignore[override]
        """A client for commands; one for all, for making one costs more than a command."""
        if client is not None:
            return nullcontext(client)
        pool = self.pool
        if self._commands is None or self._commands.connection_pool is not pool:
            self._commands = self._create_client()
        return nullcontext(self._commands)

    def _connparams(self, asynchronous: bool = False) -> dict[str, Json]:
        # The library's own pauses between attempts, up to 10 s, would hold up the hub. A connection that the hub reads
        # from must not be made anew behind its back at all: the attempt would wait for ever for what nobody will send.
        return {**super()._connparams(asynchronous), "retry": Retry(NoBackoff(), 0 if asynchronous else 1)}  # type: ignore[misc]

    def _brpop_start(self, timeout: float | None = None) -> None:
        if time.monotonic() >= self._refused_until:
            super()._brpop_start(timeout)  # type: ignore[misc]

    def _brpop_read(self, **options: Json) -> bool:
        try:
            queue, messages = self._read(options)
            self._hand_out(queue, messages)
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        return True

    def fetch(self) -> None:
        """Take what waits, without being woken for it; nothing unless some is known to wait and there is room."""
        if not self._waits or self._in_poll or self._closing or time.monotonic() < self._refused_until:
            return
        connection, queues = self.client.connection, self._queue_cycle.consume(len(self.active_queues))
        if connection is None or connection._sock is None or not self._acknowledged.issuperset(queues):
            return  # the poller is to connect, or some are not noted
        lists = [self._q_for_pri(queue, priority) for priority in self.priority_steps for queue in queues]
        taken = self._take(connection, lists)
        if taken is None or not taken.items:
            return
        queue = queues[taken.place % len(queues)]
        self._queue_cycle.rotate(queue)
        self._hand_out(queue, self._expected(taken.items))

    @property
    def acknowledges_later(self) -> bool:
        """Whether to acknowledge is but to remember it."""
        return self.connection is not None and self.connection.cycle.looped

    @property
    def has_to_acknowledge(self) -> bool:
        """Whether something ended that is not struck off."""
        return isinstance(self._qos, QoS) and bool(self._qos._ended)

    def settle(self) -> None:
        """Send acknowledgements. There are none where nothing was asked of it, or nothing wants to be acknowledged."""
        if isinstance(self._qos, QoS):
            self._qos.flush(now=False)

    def make_room(self) -> None:
        """The same if nothing could be taken without it."""
        if self._qos is not None and not self._qos.can_consume():
            self.settle()

    def _hand_out(self, queue: str, messages: list[Json]) -> None:
        for message in messages:
            self.connection._deliver(message, queue)

    def _read(self, options: dict[str, Json]) -> tuple[str, list[Json]]:
        connection = self.client.connection
        try:
            popped = self.client.parse_response(connection, "BRPOP", **options)
        except self.connection_errors:
            connection.disconnect()
            raise
        except ResponseError as refusal:  # a replica, a full disk: the worker outlives it
            log.warning("broker_refuses", error=repr(refusal))
            self._refused_until = time.monotonic() + PAUSE
            raise Empty from refusal
        if not popped:
            raise Empty
        key, item = popped[0].decode(), popped[1]
        queue = key.rsplit(self.sep, 1)[0]
        self._queue_cycle.rotate(queue)
        callback = self.connection._callbacks.get(queue)
        if self._closing or callback is None or queue not in self._acknowledged:
            return queue, batches.understood([item])
        taken = self._take(connection, [key], item)
        if taken is None or not taken.noted:
            return queue, batches.understood([item])
        return queue, self._expected([item, *taken.items])

    def _take(self, connection: Json, lists: list[str], hand: bytes = b"") -> batches.Taken | None:
        """Nothing if Redis refuses it."""
        self._waits = False
        count, ended = self.qos.room(BATCH)
        if hand:
            count -= 1
        elif count < 1:
            self._waits = True
            return None
        books = [self.global_keyprefix + name for name in (self.unacked_key, self.unacked_index_key)]
        lists = [self.global_keyprefix + name for name in lists]
        try:
            taken = batches.take(connection, books, lists, ended=ended, count=count, hand=hand)
        except self.connection_errors:
            connection.disconnect()
            raise
        except ResponseError as refusal:
            self.qos.refused(refusal)
            return None
        self.qos.struck(ended)
        self.connection.cycle.takings += 1
        self._waits = taken.left > 0
        return taken

    def _expected(self, items: list[bytes]) -> list[Json]:
        messages = batches.understood(items)
        self.qos.expect([message["properties"]["delivery_tag"] for message in messages])
        return messages


class Transport(turns.Transport):
    """The transport."""

    Channel = Channel


def install() -> None:
    """Have every connection of this process to a `redis://` or `rediss://` address be one of these."""
    TRANSPORT_ALIASES.update(redis=f"{__name__}:Transport", rediss=f"{__name__}:Transport")
