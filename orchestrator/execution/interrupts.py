"""How a run is stopped from outside: at once, for a stated reason, and never in the middle of a journal line."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from orchestrator.errors import RunExpired, RunStopped


class Interrupts:
    """The reasons for which one run may have to stop."""

    def __init__(self) -> None:
        self._why: RunStopped | None = None
        self._task: asyncio.Task[None] | None = None
        self._lines = 0

    @asynccontextmanager
    async def allowed(self, deadline: float) -> AsyncIterator[None]:
        """Let interruptions end the block by raising their reason; the `deadline`, a time of the loop's clock, brings
        one: hosts' clocks may jump.
        """
        self._task = asyncio.current_task()
        expiry = asyncio.get_running_loop().call_at(deadline, self.interrupt, RunExpired())
        try:
            yield
        except asyncio.CancelledError:
            if self._why is None or (self._task is not None and self._task.uncancel() > 0):
                raise
            raise self._why from None
        finally:
            self._task = None
            expiry.cancel()

    def interrupt(self, why: RunStopped) -> None:
        """Stop the run now, or after the line that is being written. The first reason counts."""
        if self._why is None:
            self._why = why
            if self._task is not None and not self._lines:
                self._task.cancel()

    def deferred(self) -> "Interrupts":
        """Keep interruptions waiting while a line is written: a context; whoever wrote it calls `check`."""
        return self

    def __enter__(self) -> None:
        self._lines += 1

    def __exit__(self, *_: object) -> None:
        self._lines -= 1

    def check(self) -> None:
        """Raise the reason to stop, if there is one."""
        if self._why is not None:
            raise self._why
