"""How the journal's lines get into the database: one after the other, each once, and late rather than not at all.

While Postgres is away a line waits and is tried again: what a model has said is paid for. Nothing is open meanwhile, a
cancel and the run's expiry are felt, and what is heard of an open message is told on, for that needs Postgres not. When
it is back the attempt's fence decides: a run that somebody else has taken over meanwhile is not written to.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from orchestrator import lifecycle
from orchestrator.db import Database, Session
from orchestrator.events.frames import Track
from orchestrator.execution.interrupts import Interrupts
from orchestrator.patience import Once, Work, patiently
from orchestrator.tables import Run

T = TypeVar("T")

LAST_WORDS = 60.0
"""Seconds after the run's expiry in which its end may still be written here; afterwards housekeeping will."""


class Lines:
    """The lines of one attempt at a run, which has until `deadline` on the loop's clock."""

    def __init__(self, database: Database, run: Run, track: Track, interrupts: Interrupts, deadline: float) -> None:
        self._database = database
        self._run = run
        self._interrupts = interrupts
        self._until = deadline + LAST_WORDS
        self._once = Once(database, track)
        self._line = asyncio.Lock()

    async def write(self, line: Work[T], *, last: bool = False, ending: bool = False, checkpoint: bool = False) -> T:
        """Write a line while the run is this attempt's. Raises LeaseLost or RunCancelled if it is not, and what has
        interrupted the run meanwhile: before the line while the database is away, otherwise behind it, unless it is the
        `last`. One that is `ending` the run hands the thread on.
        """

        async def held(session: Session) -> T:
            await lifecycle.hold(session, self._run, ending=ending)
            if checkpoint:
                await lifecycle.checkpoint(session, self._run)
            return await line(session)

        async def attempt() -> T:
            with self._interrupts.deferred():
                return await self._once.attempt(held)

        async with self._line:
            written = await patiently(self._database, attempt, until=self._until, check=self._interrupts.check)
        if not last:
            self._interrupts.check()
        return written

    async def close(self, line: Work[T], patience: float | None = None) -> T:
        """Write a line that nothing interrupts, and that looks itself whether it may be written; while the database is
        away it is waited for as long as the run may live and some more, or for `patience` seconds.
        """
        until = self._until if patience is None else asyncio.get_running_loop().time() + patience
        with self._interrupts.deferred():
            async with self._line:
                return await patiently(self._database, lambda: self._once.attempt(line), until=until)

    async def read(self, reading: Callable[[], Awaitable[T]]) -> T:
        """What `reading` finds, which begins anew when the database was away. Raises what has interrupted the run."""

        async def attempt() -> T:
            with self._interrupts.deferred():
                return await reading()

        found = await patiently(self._database, attempt, until=self._until, check=self._interrupts.check)
        self._interrupts.check()
        return found
