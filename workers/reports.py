"""What the loop thread has to tell Celery's hub about jobs, several at a time if they can.

    loop thread: add ──▶ wait for company ──▶ wake ──▶ hub thread: handle all there are, whatever it woke for

A job that has ended is nobody's concern but Celery's books, so it can wait. A wake-up costs the hub a turn.
"""

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from workers.loop import LoopThread
from workers.wake import Wake

T = TypeVar("T")


class Reports(Generic[T]):
    """Reports on their way from the loop thread to the hub thread, where `handle` gets each, in order."""

    def __init__(self, loop: LoopThread, handle: Callable[[T], None]) -> None:
        self.wake = Wake()
        self._loop = loop
        self._handle = handle
        self._waiting: deque[T] = deque()
        self._telling = False

    def add(self, report: T, within: float) -> None:
        """Have it handled within so many seconds. Called in the loop thread."""
        self._waiting.append(report)
        if not within:
            self.wake.set()
        elif not self._telling:
            self._telling = True
            self._loop.loop.call_later(within, self._tell)

    def handle(self) -> None:
        """Handle all there are, and take back wake-ups. Called in the hub thread."""
        self.wake.clear()
        self.handle_waiting()

    def handle_waiting(self) -> bool:
        """Handle all there are, if any. Called in the hub thread."""
        if not self._waiting:
            return False
        try:
            while self._waiting:
                self._handle(self._waiting.popleft())
        finally:
            if self._waiting:  # `handle` raised; the hub decides what follows, the other reports must stay
                self.wake.set()
        return True

    def _tell(self) -> None:
        self._telling = False
        if self._waiting:
            self.wake.set()
