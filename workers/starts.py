"""Jobs on their way from Celery's hub to the loop thread: those start together whose messages were taken together.

    hub thread: add, add, add … the last message is delivered ──▶ loop thread: start all there are

Told of the first at once, the loop's thread fights with the hub's for the interpreter while that delivers the others,
and each statement claims fewer of them: a thousand runs took a third longer until all were claimed. What it costs the
first is the time to deliver the others, a tenth of a millisecond each.
"""

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from workers.loop import LoopThread

T = TypeVar("T")


class Delivery:
    """Messages that are delivered one after the other: a context. Belongs to the hub thread."""

    def __init__(self) -> None:
        self._under_way = False
        self._waiting: list[Callable[[], object]] = []

    def __enter__(self) -> None:
        self._under_way = True

    def __exit__(self, *_: object) -> None:
        self._under_way = False
        while self._waiting:
            self._waiting.pop()()

    def puts_off(self, call: Callable[[], object]) -> bool:
        """Whether `call` is called at the end of what is under way; False if nothing is."""
        if self._under_way:
            self._waiting.append(call)
        return self._under_way


delivery = Delivery()
"""This process': it has one hub."""


class Starts(Generic[T]):
    """Jobs on their way from the hub thread to the loop thread, where `start` gets each, in order."""

    def __init__(self, loop: LoopThread, start: Callable[[T], None]) -> None:
        self._loop = loop
        self._start = start
        self._waiting: deque[T] = deque()
        self._told = False

    def add(self, job: T) -> bool:
        """Have it started; False if the loop is closed, as far as is known. Called in the hub thread."""
        self._waiting.append(job)
        if self._told:  # nobody has looked yet, and who does will find this one, too
            return True
        self._told = True
        return delivery.puts_off(self.tell) or self.tell()

    def tell(self) -> bool:
        """Have all started that wait; False if the loop is closed. Called in the hub thread."""
        return self._loop.call(self._start_all)

    def _start_all(self) -> None:  # in the loop thread
        self._told = False
        while self._waiting:
            self._start(self._waiting.popleft())
