"""How Celery's hub has the broker's transport act: before each of its waits, and each second.

kombu leaves its own callback with the hub for good, so that each reconnect adds one more; and it asks the kernel each
time to watch what is watched already. Here what one connection brought to the hub leaves with it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from kombu.transport import redis as stock

from orchestrator.foreign import Json

LATER = 0.05
"""Seconds for which what ended waits for messages, with which it would be struck off at no cost."""
INTERVAL = 1.0
"""Seconds after which acknowledgements that could not be sent are tried again."""


class Poller(stock.MultiChannelPoller):
    """Has messages taken and acknowledgements sent before it waits; `looped` if a hub has it wait again and again."""

    looped = False
    takings = 0
    if TYPE_CHECKING:
        _channels: set[Json]

    def __init__(self) -> None:
        super().__init__()
        self._hub: Json = None
        self._due = self._wanted = False

    def loop_in(self, hub: Json) -> None:
        """Have the hub call us."""
        self._hub, self.looped = hub, True

    def flush_later(self, channel: Json) -> None:
        """Send acknowledgements soon, unless they go with messages that are taken until then."""
        if self._hub is None:
            return
        self._set_clock()
        if not channel._in_poll and not self._wanted:  # there was no room for more, and now there may be
            self._wanted = True
            self._hub.call_soon(self._turn_soon)

    def _turn_soon(self) -> None:
        """Nothing but that the hub has something to call, and so does not wait: its next turn takes messages."""
        self._wanted = False

    def _set_clock(self) -> None:
        if not self._due:
            self._due = True
            self._hub.call_later(LATER, self._see_to_it, self.takings)

    def _see_to_it(self, takings: int) -> None:
        self._due = False
        if takings == self.takings:
            self.flush()
        elif any(channel.has_to_acknowledge for channel in self._channels):
            self._set_clock()

    def get(self, callback: Json, timeout: float | None = None) -> None:
        """Wait for a message and deliver it, for those who have no hub."""
        self.flush()
        super().get(callback, timeout)

    def turn(self) -> None:
        """Called by the hub before each wait."""
        for channel in tuple(self._channels):
            channel.fetch()
        self.on_poll_start()

    def on_poll_start(self) -> None:
        """Ask for messages. What ended makes room for them first, if there is none."""
        for channel in self._channels:
            channel.make_room()
        super().on_poll_start()

    def flush(self) -> None:
        """Send all channels' acknowledgements."""
        for channel in self._channels:
            channel.settle()


class Transport(stock.Transport):
    """A transport that belongs to a hub from when it is registered until it is closed."""

    if TYPE_CHECKING:
        cycle: Json

    def __init__(self, *args: Json, **kwargs: Json) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()
        self._leave: Callable[[], None] | None = None

    def register_with_event_loop(self, connection: Json, loop: Json) -> None:
        """Be called by the hub before each wait, and by a timer: during a shutdown only timers go on."""
        self._leave_hub()
        others = set(loop.on_tick)
        super().register_with_event_loop(connection, loop)
        loop.on_tick.intersection_update(others)  # ours stands for kombu's
        cycle, readers = self.cycle, loop.readers

        def turn() -> None:
            cycle.turn()
            for fd in cycle.fds:
                if fd not in readers:
                    loop.add_reader(fd, self.on_readable, fd)

        timer = loop.call_repeatedly(INTERVAL, cycle.flush)

        def leave() -> None:
            loop.on_tick.discard(turn)
            timer.cancel()

        loop.on_tick.add(turn)
        cycle.loop_in(loop)
        self._leave = leave

    def close_connection(self, connection: Json) -> None:
        """Close it. The hub lives on, with another one's connection."""
        self._leave_hub()
        super().close_connection(connection)

    def _leave_hub(self) -> None:
        if self._leave is not None:
            self._leave()
            self._leave = None
