"""kombu's Redis transport, which takes and acknowledges many messages in one round trip.

Stock, each message costs two commands that the worker waits for (it is noted as unacknowledged, later struck off): four
fifths of what an empty task costs. Here one script does all of it, for as many messages as there are; see
`workers.batches`.

    nothing waits    BRPOP ──message──▶ TAKE: what ended struck off, the message noted, more taken ──▶ delivered … ended
                              └──────▶ delivered meanwhile … ended
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
from queue import Empty
from typing import TYPE_CHECKING, NamedTuple

import structlog
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as stock
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry

from orchestrator.foreign import Json
from workers import batches, turns
from workers.starts import delivery
from workers.unacknowledged import PAUSE, QoS

BATCH = 100
"""Messages taken at once, at most: they are delivered before the hub looks at anything else."""

log = structlog.get_logger(__name__)


class _Asked(NamedTuple):
    """What Redis was asked for and has not answered yet, and what is struck off by it."""

    connection: Json
    call: batches.Call
    ended: list[str]


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
            self._hand_out(*self._read(options))
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
        with delivery:
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
        asked = self._ask(connection, [key], item)
        if self.connection.cycle.looped:
            return queue, self._deliver_meanwhile(queue, item, asked)
        taken = self._answered(asked)
        if taken is None or not taken.noted:
            return queue, batches.understood([item])
        return queue, self._expected([item, *taken.items])

    def _deliver_meanwhile(self, queue: str, item: bytes, asked: "_Asked | None") -> list[Json]:
        """Deliver the message in hand while Redis notes it; returns what was taken with it. A worker that has nothing
        else to do would wait for that, and start later by as much.
        """
        taken, messages = None, self._expected([item])
        try:
            self._hand_out(queue, messages)
        finally:
            taken = self._answered(asked)
            rest = [] if taken is None else self._expected(taken.items)  # given back if the first has failed
        for message in messages:
            self.qos.noted_meanwhile(message["properties"]["delivery_tag"], taken is not None and taken.noted)
        return rest

    def _take(self, connection: Json, lists: list[str]) -> batches.Taken | None:
        """Nothing if there is no room, or Redis refuses it."""
        return self._answered(self._ask(connection, lists))

    def _ask(self, connection: Json, lists: list[str], hand: bytes = b"") -> "_Asked | None":
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
            return _Asked(connection, batches.ask(connection, books, lists, ended=ended, count=count, hand=hand), ended)
        except self.connection_errors:
            connection.disconnect()
            raise

    def _answered(self, asked: "_Asked | None") -> batches.Taken | None:
        if asked is None:
            return None
        try:
            taken = batches.answer(asked.connection, asked.call)
        except self.connection_errors:
            asked.connection.disconnect()
            raise
        except ResponseError as refusal:
            self.qos.refused(refusal)
            return None
        self.qos.struck(asked.ended)
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
