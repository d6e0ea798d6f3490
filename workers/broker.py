"""kombu's Redis transport, which takes many messages in one round trip and acknowledges many in another.

Stock, each message costs two commands that the worker waits for (it is noted as unacknowledged, later struck off): four
fifths of what an empty task costs. Here a worker that is woken by one message takes with it what else lies in the same
list, and notes them all, in one script; what ended is struck off once per turn of Celery's hub.

                     ┌──────────────────────── the next turn of the hub ───────────────────────┐
    BRPOP ──message──▶ TAKE: noted, with up to BATCH - 1 more ──▶ delivered … ended ──▶ ZREM, HDEL of all that ended

Keys and messages are those of the stock transport: workers of both kinds, and other releases, can share a queue.

What must not be forgotten:

- What ended counts against the prefetch limit until Redis knows. So the limit holds for what Redis counts, and what is
  kept of acknowledgements that cannot be sent is bounded; they are sent when they can be. Should the connection be lost
  before, their messages come again after the visibility timeout, and the claim in Postgres finds nothing to do.
- TAKE is never repeated: what it took and could not say is in nobody's hands. It lies among the unacknowledged for the
  visibility timeout; housekeeping wakes those runs long before.
- The first message of a batch is taken by BRPOP, as ever, and is lost if this process dies before it is noted.
- A Redis that is full, or may not be written to, refuses to note. A message in hand is carried out all the same.
- A worker leaves half of what waits to others, who may be idle; a few it always takes.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from queue import Empty
from typing import TYPE_CHECKING

import structlog
from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.transport import redis as stock
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ResponseError
from redis.retry import Retry

from orchestrator.foreign import Json
from workers import json_bodies

BATCH = 100
"""Messages taken at once, at most: they are delivered before the hub looks at anything else."""
FEW = 8
"""Messages that a worker need not share."""
PAUSE = 1.0
"""Seconds until a Redis that refused is asked again."""

TAKE = f"""
local function address(item)
  local properties = cjson.decode(item)['properties']
  local info = properties['delivery_info']
  return properties['delivery_tag'], cjson.encode(info['exchange']), cjson.encode(info['routing_key'])
end
local function note(item)
  local readable, tag, exchange, key = pcall(address, item)
  if not readable or type(tag) ~= 'string' then return false end
  redis.call('ZADD', KEYS[3], ARGV[1], tag)
  redis.call('HSET', KEYS[2], tag, '[' .. item .. ',' .. exchange .. ',' .. key .. ']')
  return true
end
if not note(ARGV[3]) then return {{0}} end
local share = math.max({FEW}, math.ceil(redis.call('LLEN', KEYS[1]) / 2))
local count = math.min(tonumber(ARGV[2]), share)
local more = count > 0 and redis.call('RPOP', KEYS[1], count) or {{}}
for _, item in ipairs(more) do note(item) end
return {{1, unpack(more)}}
"""
"""Notes the message in hand and takes more. Nothing is taken where noting fails: a script that stops undoes nothing."""
TAKE_SHA = hashlib.sha1(TAKE.encode(), usedforsecurity=False).hexdigest()

log = structlog.get_logger(__name__)


class QoS(stock.QoS):
    """What is unacknowledged of one channel. `ended` is known to be over, and Redis does not know yet."""

    if TYPE_CHECKING:  # kombu's own, of which its types do not tell
        channel: Json
        _delivered: Json
        _flush: Callable[[], None]
        _quick_append: Callable[[str, Json], None]

    def __init__(self, *args: Json, **kwargs: Json) -> None:
        super().__init__(*args, **kwargs)
        self._ended: deque[str] = deque()
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
            self._tell(refusal)
            virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge: now if nobody would do it later."""
        self._ended.append(delivery_tag)
        if not self.channel.connection.cycle.looped:
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
            self._tell(error)
            return
        self._refused = False
        for tag in tags:
            self._ended.popleft()
            super(stock.QoS, self).ack(tag)

    def restore_unacked_once(self, stderr: Json = None) -> None:
        """Give back what is not acknowledged. What ended is none of it, even if that could not be said."""
        self.flush()
        for tag in self._ended:
            self._delivered.pop(tag, None)
        if self._ended:
            log.warning("acknowledgements_lost", count=len(self._ended))
            self._ended.clear()
        super().restore_unacked_once(stderr)

    def _tell(self, error: Exception) -> None:
        if not self._refused:
            self._refused = True
            log.warning("broker_refuses", error=repr(error))


class Channel(stock.Channel):
    """A channel that reads batches from the queues that are acknowledged."""

    QoS = QoS
    if TYPE_CHECKING:  # kombu's own, of which its types do not tell
        connection: Json
        connection_errors: tuple[type[Exception], ...]
        global_keyprefix: str
        qos: Json
        _closing: bool
        _queue_cycle: Json
        _flush_brpop_reauth: Callable[[], None]
        _create_client: Callable[[], Json]

    def __init__(self, *args: Json, **kwargs: Json) -> None:
        self._acknowledged: set[str] = set()
        self._commands: Json = None
        self._refused_until = 0.0
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
            for message in messages:
                self.connection._deliver(message, queue)
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        return True

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
            return queue, _understood([item])
        noted, more = self._take(connection, key, item)
        messages = _understood([item, *more])
        if noted:
            self.qos.expect([message["properties"]["delivery_tag"] for message in messages])
        return queue, messages

    def _take(self, connection: Json, key: str, item: bytes) -> tuple[bool, list[bytes]]:
        room = self.qos.can_consume_max_estimate()
        count = (BATCH if room is None else min(room, BATCH)) - 1
        keys = [self.global_keyprefix + name for name in (key, self.unacked_key, self.unacked_index_key)]
        call = (len(keys), *keys, time.time(), count, item)
        try:
            try:
                noted, *more = _ask(connection, "EVALSHA", TAKE_SHA, *call)
            except NoScriptError:  # Redis is new, or was told to forget
                noted, *more = _ask(connection, "EVAL", TAKE, *call)
        except self.connection_errors:
            connection.disconnect()
            raise
        except ResponseError as refusal:
            self.qos._tell(refusal)
            return False, []
        return bool(noted), more


class Poller(stock.MultiChannelPoller):
    """Sends acknowledgements before it waits for anything; `looped` if Celery's hub has it wait again and again."""

    looped = False
    again: Json = None
    if TYPE_CHECKING:
        _channels: set[Json]

    def on_poll_start(self) -> None:
        """Called before each wait."""
        self.flush()
        super().on_poll_start()

    def flush(self) -> None:
        """Send all channels' acknowledgements."""
        for channel in self._channels:
            if isinstance(channel._qos, QoS):  # else nothing was asked of it, or its user wants nothing acknowledged
                channel._qos.flush(now=False)


class Transport(stock.Transport):
    """The transport."""

    Channel = Channel
    if TYPE_CHECKING:
        cycle: Json

    def __init__(self, *args: Json, **kwargs: Json) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()

    def register_with_event_loop(self, connection: Json, loop: Json) -> None:
        """Be called by the hub before each wait, and each second: during a shutdown only timers go on."""
        super().register_with_event_loop(connection, loop)
        self.cycle.looped = True
        if self.cycle.again is not None:
            self.cycle.again.cancel()
        self.cycle.again = loop.call_repeatedly(PAUSE, self.cycle.flush)


def install() -> None:
    """Have every connection of this process to a `redis://` or `rediss://` address be one of these."""
    TRANSPORT_ALIASES.update(redis=f"{__name__}:Transport", rediss=f"{__name__}:Transport")


def _ask(connection: Json, *command: Json) -> Json:
    connection.send_command(*command)
    return connection.read_response()


def _understood(items: list[bytes]) -> list[Json]:
    """The messages that are any. Nobody could do anything with the others, now or later."""
    messages = []
    for item in items:
        try:
            message = json_bodies.loads(item)
            message["properties"]["delivery_tag"], message["properties"]["delivery_info"]["routing_key"]
        except (ValueError, KeyError, TypeError):
            log.warning("message_not_understood", size=len(item))
        else:
            messages.append(message)
    return messages
