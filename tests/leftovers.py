"""Runs that a test has left on their way: they end before the next test scripts the model, or take its replies.

A run that nobody waited for may ask the model whenever its worker gets to it: the next test's replies would be its. One
that was never woken (its wake-up went nowhere, as tests want it) is woken by housekeeping half a minute later.
"""

import asyncio
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Coroutine
from typing import Any

import asyncpg

from tests.stack import API_KEY, Stack

DEADLINE = 60.0
MOVING = "SELECT thread_id, id FROM runs WHERE status IN ('queued', 'in_progress', 'cancelling') AND NOT waiting"


class Leftovers:
    """Looks for them over one connection, kept in a thread of its own: it is asked before every test."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._connection = self._await(asyncpg.connect(stack.environment["DATABASE_URL"]))

    def end(self) -> None:
        """Cancel what moves, and return when nothing does."""
        deadline = time.monotonic() + DEADLINE
        while moving := self._await(self._connection.fetch(MOVING)):
            assert time.monotonic() < deadline, f"runs of a former test do not end: {moving}"
            for thread_id, run_id in moving:
                self._cancel(f"{self._stack.base_url}/threads/{thread_id}/runs/{run_id}/cancel")
            time.sleep(0.02)

    def close(self) -> None:
        """Give the connection back."""
        self._await(self._connection.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _cancel(self, url: str) -> None:
        request = urllib.request.Request(url, b"", {"Authorization": f"Bearer {API_KEY}"})  # noqa: S310  # our own http
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as answer:  # noqa: S310
                answer.read()
        except urllib.error.HTTPError as refused:  # it is over, or being cancelled, or another project's
            with refused:
                refused.read()

    def _await(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(DEADLINE)
