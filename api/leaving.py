"""Whether this process is about to end, and who wants to know: streams and long polls would go on for minutes.

    serving ──drain──▶ draining: /readyz says so, all else goes on ──leave──▶ leaving: whoever waits is told, once

The server tells (see `api.server`). Under another one nobody does, and what goes on too long is cut off.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

Address = tuple[str, int]
"""Of a client's end of a connection."""


class Leaving:
    """One per process. `deaf` are the clients that did not even take a farewell: the server cuts their connections."""

    def __init__(self) -> None:
        self.draining = False
        self.deaf: set[Address] = set()
        self._left = False
        self._waiting: set[asyncio.Future[None]] = set()

    def drain(self) -> None:
        """Say that this process will end: whoever chooses among several should choose another one."""
        self.draining = True

    def leave(self) -> None:
        """Say that it ends now."""
        self.draining = self._left = True
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    @contextmanager
    def awaited(self) -> Iterator["asyncio.Future[None]"]:
        """A future that is done once the process leaves. It costs no task and is to be forgotten after the block."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._left:
            future.set_result(None)
        self._waiting.add(future)
        try:
            yield future
        finally:
            self._waiting.discard(future)
