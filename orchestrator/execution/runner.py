"""Carries the runs of one worker process: lets the loop run, and passes interruptions to the right one."""

import asyncio
from collections.abc import Mapping

import structlog
from structlog.contextvars import bind_contextvars, reset_contextvars

from orchestrator import db, lifecycle
from orchestrator.attempts import Leaving
from orchestrator.db import Database
from orchestrator.errors import HandedOver, LeaseLost, RunFailure, RunStopped
from orchestrator.execution.claims import Claims
from orchestrator.execution.journal import Journal
from orchestrator.execution.loop import execute
from orchestrator.model import Model
from orchestrator.settings import Settings
from orchestrator.tools.registry import toolbox
from orchestrator.windows import Windows

log = structlog.get_logger(__name__)


class Runner:
    """The runs that this process is at, under its name `owner`."""

    def __init__(self, database: Database, model: Model, owner: str, settings: Settings) -> None:
        self._database = database
        self._model = model
        self.windows = Windows(settings)
        self._claims = Claims(database, owner, settings, self.windows)
        self._journals: dict[str, Journal] = {}
        self._claiming: dict[str, RunStopped | None] = {}
        self._draining = False

    async def run(self, run_id: str, attempt: int | None = None) -> None:
        """Carry a run to rest if it waits for a worker; otherwise do nothing: a wake-up may come twice or too late.

        `attempt` is the one that the wake-up is good for.
        """
        if self._draining:
            await self._pass_on(run_id, attempt)
            return
        journal = await self._claim(run_id, attempt)
        if journal is None:
            log.debug("run_not_claimed", run_id=run_id)
            return
        run = journal.run
        known = bind_contextvars(run_id=run.id, thread_id=run.thread_id, attempt=run.attempt)
        try:
            await self._carry(journal)
        except BaseException as error:  # a shutdown, or the journal cannot be written
            # Should even this fail, nobody renews its lease.
            await asyncio.shield(journal.give_back(*_why(error)))
            self._claims.left(run.id, run.attempt)
            raise
        else:
            self._claims.left(run.id, run.attempt)
        finally:
            reset_contextvars(**known)
            if self._journals.get(run.id) is journal:
                del self._journals[run.id]

    def drain(self, now: bool = False) -> None:
        """Claim nothing more, and give back every run that reaches a checkpoint and would go on; with `now`, all."""
        if not self._draining:
            log.info("runner_drains", runs=len(self._journals))
        elif now and self._journals:
            log.info("runner_cuts", runs=len(self._journals))
        self._draining = True
        for journal in self._journals.values():
            journal.leave()
            if now:
                journal.interrupt(HandedOver())

    async def close(self) -> None:
        """Let go of the database, once no run is carried any more."""
        await self._claims.close()

    def carried(self) -> Mapping[str, int]:
        """The runs that this process is at, and its attempts at them."""
        return self._claims.unread | {run_id: journal.run.attempt for run_id, journal in self._journals.items()}

    def interrupt(self, run_id: str, why: RunStopped, attempt: int | None = None) -> None:
        """Stop a run if this process is at it, or about to be: a signal may overtake the answer to the claim.

        With `attempt`, only that one: the process may be at the next by now.
        """
        journal = self._journals.get(run_id)
        if journal is not None and attempt in (None, journal.run.attempt):
            journal.interrupt(why)
        if attempt is not None:
            return
        if run_id in self._claiming:
            self._claiming[run_id] = why

    async def _claim(self, run_id: str, attempt: int | None) -> Journal | None:
        self._claiming[run_id] = None
        try:
            journal = await self._claims.take(run_id, attempt)
        finally:
            why = self._claiming.pop(run_id, None)
        if journal is not None:
            if (stale := self._journals.get(run_id)) is not None:  # it was taken from us, and came back
                stale.interrupt(LeaseLost(run_id))
            self._journals[run_id] = journal
            if why is not None:
                journal.interrupt(why)
            if self._draining:
                journal.leave()
        return journal

    async def _carry(self, journal: Journal) -> None:
        try:
            tools = toolbox(journal.run.tools)
        except RunFailure as failure:
            await journal.fail(failure)
        else:
            await execute(journal, self._model, tools)

    async def _pass_on(self, run_id: str, attempt: int | None) -> None:
        """A wake-up that came too late for this worker wakes another one."""
        async with self._database.transaction() as session:
            session.enqueue(lifecycle.EXECUTE, run_id, *([] if attempt is None else [attempt]))


def _why(error: BaseException) -> tuple[Leaving, str | None]:
    """Why a run is given back, by what has stopped it."""
    if not isinstance(error, Exception):
        return "handed over", None
    return ("database away" if db.passes(error) else "gave up"), db.describe(error)
