"""Reads connections that say a little, often, less often while many of them speak.

A model that is quick sends a token every few milliseconds, each in a packet of its own, and waking up for it costs more
than what is done with it. So while many answers are under way, a connection that says something more often than every
`PATIENCE` is left alone for at most so long after each time, all of them up to the same moments: what came meanwhile is
read, and told, at once. Nobody is kept waiting for a first word, and answers that are few are never kept waiting.
"""

import asyncio
from collections.abc import Sized
from typing import Final, Protocol

MANY: Final = 32
"""Answers under way from which on it is worth it."""
PATIENCE: Final = 0.02
"""Seconds for which a connection is left alone, at most."""
TOGETHER: Final = 64
"""Connections that are woken in one turn of the loop: others want theirs, too."""


class Resting(Protocol):
    """What can be left alone."""

    def wake(self) -> None:
        """Read again."""
        ...


class Gatherer:
    """Wakes the connections of one loop some time after they went to rest; `busy` are those under way."""

    def __init__(self, busy: Sized) -> None:
        self._busy = busy
        self._resting: list[Resting] = []

    def takes(self, connection: Resting) -> bool:
        """Wake this connection soon; False if it is not to rest."""
        if len(self._busy) < MANY:
            return False
        if not self._resting:
            asyncio.get_running_loop().call_later(PATIENCE, self._wake)
        self._resting.append(connection)
        return True

    def _wake(self) -> None:
        rested, self._resting = self._resting, []
        self._wake_some(rested)

    def _wake_some(self, rested: list[Resting]) -> None:
        if len(rested) > TOGETHER:
            asyncio.get_running_loop().call_soon(self._wake_some, rested[TOGETHER:])
        for connection in rested[:TOGETHER]:
            connection.wake()
