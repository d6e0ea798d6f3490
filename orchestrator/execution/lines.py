"""How the journal's lines get into the database: one after the other, each once, and late rather than not at all.

A line has a plain form, for a run in the plain state (see `plain`), and one that knows all cases: a transaction. The
plain form is tried once; what it has not done is the transaction's.

While Postgres is away a line waits and is tried again: what a model has said is paid for. Nothing is open meanwhile, a
cancel and the run's expiry are felt, and what is heard of an open message is told on, for that needs Postgres not. When
it is back the attempt's fence decides: a run that somebody else has taken over meanwhile is not written to. If an
answer was lost, Postgres is asked first what has become of the line: what was written must be told, once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from orchestrator import db, lifecycle
from orchestrator.db import Database, Session
from orchestrator.events.frames import Track
from orchestrator.execution.interrupts import Interrupts
from orchestrator.execution.plain import Plain, PlainForms
from orchestrator.foreign import Json
from orchestrator.patience import Once, Work, patiently
from orchestrator.plain_lines import PlainLines
from orchestrator.tables import Run

log = structlog.get_logger(__name__)

T = TypeVar("T")

LAST_WORDS = 60.0
"""Seconds after the run's expiry in which its end may still be written here; afterwards housekeeping will."""


class Lines:
    """The lines of one attempt at a run, which has until `deadline` on the loop's clock. `plain` builds their plain
    forms, if there are any.
    """

    def __init__(
        self,
        database: Database,
        run: Run,
        track: Track,
        interrupts: Interrupts,
        deadline: float,
        shared: PlainLines | None = None,
    ) -> None:
        self.plain = None if shared is None else PlainForms(shared, database, run, track)
        self._database = database
        self._run = run
        self._interrupts = interrupts
        self._until = deadline + LAST_WORDS
        self._once = Once(database, track)
        self._line = asyncio.Lock()
        self._doubt: Plain[Json] | None = None

    async def write(
        self,
        line: Work[T],
        plain: Plain[T] | None = None,
        *,
        last: bool = False,
        ending: bool = False,
        checkpoint: bool = False,
    ) -> T:
        """Write a line while the run is this attempt's: in its `plain` form if that will do. Raises LeaseLost or
        RunCancelled if the run is not, and what has interrupted it meanwhile: before the line while the database is
        away, otherwise behind it, unless it is the `last`. One that is `ending` the run hands the thread on.
        """

        async with self._line:
            written = None
            if plain is not None and self._doubt is None and not self._once.doubtful:
                written = await self._try(plain)
            if written is None:
                written = (await self._long_way(line, plain, ending=ending, checkpoint=checkpoint),)
        if not last:
            self._interrupts.check()
        return written[0]

    async def _try(self, plain: Plain[T]) -> tuple[T] | None:
        """The plain way, as it goes nearly always: what followed from it, or None if more is to be done."""
        with self._interrupts.deferred():
            try:
                return await self._send(plain)
            except Exception as error:
                if not db.passes(error):
                    raise
                return None

    async def _long_way(self, line: Work[T], plain: Plain[T] | None, *, ending: bool, checkpoint: bool) -> T:
        async def held(session: Session) -> T:
            await lifecycle.hold(session, self._run, ending=ending)
            if checkpoint:
                await lifecycle.checkpoint(session, self._run)
            return await line(session)

        form = None if self._doubt is None else plain  # once it was answered, the transaction is what is repeated

        async def attempt() -> T:
            nonlocal form
            with self._interrupts.deferred():
                if self._doubt is not None and (written := await self._resolve(plain)) is not None:
                    return written[0]
                if form is not None and (written := await self._send(form)) is not None:
                    return written[0]
                form = None
                return await self._once.attempt(held)

        return await patiently(self._database, attempt, until=self._until, check=self._interrupts.check)

    async def close(self, line: Work[T], patience: float | None = None) -> T:
        """Write a line that nothing interrupts, and that looks itself whether it may be written; while the database is
        away it is waited for as long as the run may live and some more, or for `patience` seconds.
        """

        async def attempt() -> T:
            if self._doubt is not None:
                await self._resolve()
            return await self._once.attempt(line)

        until = self._until if patience is None else asyncio.get_running_loop().time() + patience
        with self._interrupts.deferred():
            async with self._line:
                return await patiently(self._database, attempt, until=until)

    async def read(self, reading: Callable[[], Awaitable[T]]) -> T:
        """What `reading` finds, which begins anew when the database was away. Raises what has interrupted the run."""

        async def attempt() -> T:
            with self._interrupts.deferred():
                return await reading()

        found = await patiently(self._database, attempt, until=self._until, check=self._interrupts.check)
        self._interrupts.check()
        return found

    async def _send(self, form: Plain[T]) -> tuple[T] | None:
        """Try the plain form; what followed from it, or None if the run is not in the plain state."""
        self._doubt = form  # whoever is cancelled here will not know either
        try:
            row = await form.send()
        except Exception as error:
            if db.passes(error):
                raise
            log.warning("plain_line_refused", error=db.describe(error))  # for the sake of any run in it
            row = None
        self._doubt = None
        return None if row is None else (form.told(row),)

    async def _resolve(self, form: Plain[T] | None = None) -> tuple[T] | None:
        """Find out what has become of a plain form that was not answered, and tell it if it was written. Returns what
        followed from it, if it is this one.
        """
        doubt: Plain[Json] | None = self._doubt
        if doubt is None or self.plain is None:
            return None
        row = await self.plain.lines.happened(doubt.asked)
        self._doubt = None
        if row is None:
            return None
        result = doubt.told(row)
        return (result,) if doubt is form else None
