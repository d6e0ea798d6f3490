"""Carries the runs of one worker process: claims them, lets the loop run, passes interruptions to the right one."""

import asyncio
from collections.abc import Mapping

import structlog

from orchestrator import closing, db, lifecycle
from orchestrator.attempts import Leaving
from orchestrator.db import Database, Session
from orchestrator.errors import HandedOver, LeaseLost, RunCancelled, RunFailure, RunStopped
from orchestrator.execution import past
from orchestrator.execution.journal import Journal
from orchestrator.execution.loop import execute
from orchestrator.execution.past import Past
from orchestrator.lifecycle import Claimed
from orchestrator.model import Model
from orchestrator.patience import Once, patiently
from orchestrator.settings import Settings
from orchestrator.tables import Run
from orchestrator.tools.registry import toolbox
from orchestrator.windows import Windows

log = structlog.get_logger(__name__)

CLAIMING = 60.0
"""Seconds that a wake-up waits for the database; housekeeping sends those again that came to nothing."""

UNREADABLE = {"code": "server_error", "message": "What is stored of this run or of its thread cannot be read."}


class Runner:
    """The runs that this process is at, under its name `owner`."""

    def __init__(self, database: Database, model: Model, owner: str, settings: Settings) -> None:
        self._database = database
        self._model = model
        self._owner = owner
        self._lease = settings.run_lease
        self.windows = Windows(settings)
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
        with structlog.contextvars.bound_contextvars(run_id=run.id, thread_id=run.thread_id, attempt=run.attempt):
            log.info("run_claimed", model=run.model)
            try:
                await self._carry(journal)
            except BaseException as error:  # a shutdown, or the journal cannot be written
                # Should even this fail, nobody renews its lease.
                await asyncio.shield(journal.give_back(*_why(error)))
                raise
            finally:
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

    def carried(self) -> Mapping[str, int]:
        """The runs that this process is at, and its attempts at them."""
        return {run_id: journal.run.attempt for run_id, journal in self._journals.items()}

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
            journal = await self._claimed(run_id, attempt)
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

    async def _claimed(self, run_id: str, attempt: int | None) -> Journal | None:
        async def take(session: Session) -> Journal | None:
            claimed = await lifecycle.claim(session, run_id, self._owner, self._lease, attempt)
            return None if claimed is None else await self._journal(session, claimed)

        once, now = Once(self._database), asyncio.get_running_loop().time()
        try:
            return await patiently(self._database, lambda: once.attempt(take), until=now + CLAIMING)
        except Exception as error:
            if db.passes(error):
                raise
            log.exception("run_unreadable", run_id=run_id)
            await self._fail_unread(run_id, attempt)
            return None

    async def _journal(self, session: Session, claimed: Claimed) -> Journal:
        run = claimed.run
        deadline = asyncio.get_running_loop().time() + lifecycle.time_left(run, self._lease)
        if claimed.left_behind:
            log.info("run_taken_over", run_id=run.id, attempt=run.attempt, before=claimed.before)
            await closing.close_torn(session, run)
        context = Past(self._database, run, window := self.windows.of(run.model))
        await context.begin(session)
        own = await past.own(session, run)
        return Journal(self._database, run, session.track(run.id, run.attempt), context, own, window, deadline)

    async def _fail_unread(self, run_id: str, attempt: int | None) -> None:
        """End a run that could be claimed but not read. Whoever claimed it next would find the same."""
        async with self._database.transaction() as session:
            claimed = await lifecycle.claim(session, run_id, self._owner, self._lease, attempt)
        if claimed is None:
            return
        run = claimed.run
        track = session.track(run.id, run.attempt)
        try:
            async with self._database.transaction(track) as session:
                ended = await self._end_unread(session, run)
        except LeaseLost:
            log.warning("run_left", run_id=run_id, reason="LeaseLost")
        else:
            log.info("run_ended", run_id=run_id, status=ended and ended.status)

    async def _end_unread(self, session: Session, run: Run) -> Run | None:
        try:
            await lifecycle.hold(session, run, ending=True)
        except RunCancelled:
            return await closing.end(session, run, "cancelled", attempt="same")
        return await closing.end(session, run, "failed", attempt="same", last_error=UNREADABLE)

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
