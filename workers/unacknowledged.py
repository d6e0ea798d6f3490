"""What a worker has taken from the broker and not acknowledged, as `workers.broker` keeps count of it.

What ended is struck off with the next messages that are taken, or by itself if there are none. Until Redis knows, it
counts against the prefetch limit, and is kept: acknowledgements that cannot be sent are sent when they can be.
"""

import time
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

import structlog
from kombu.transport import redis as stock
from kombu.transport import virtual
from redis.exceptions import ResponseError

from orchestrator.foreign import Json

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

    def noted_meanwhile(self, delivery_tag: str, noted: bool) -> None:
        """A message was delivered while Redis was to note it. It is over by now, or it must be noted; both never: what
        was rejected before it was noted would come again.
        """
        message = self._delivered.get(delivery_tag)
        over = message is None or delivery_tag in self._dirty
        if noted and over:
            self.ack(delivery_tag)
        elif not noted and not over and delivery_tag not in self._ended:
            self.append(message, delivery_tag)

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
        self._flush()  # messages that are over; the next may be long in coming

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
