"""Takes runs for a worker process: claims them, and reads what their journals begin with.

    queued ───────claim, and read──────────────────────────────────────────────────────▶ journal
    left behind ──claim──▶ wait until no claim is under way ──▶ close what is torn, read ──▶ journal

When a worker dies, all its runs come at once, and each has waited already. To claim one takes a statement; to read it,
and to ask the model, takes ten times as long. So all are claimed before the first of them is read.

A run that is claimed and cannot be read is failed here: whoever claimed it next would find the same.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import structlog

from orchestrator import attempts, closing, db, lifecycle
from orchestrator.db import Database, Session
from orchestrator.errors import LeaseLost, RunCancelled
from orchestrator.execution import past
from orchestrator.execution.journal import Journal
from orchestrator.execution.past import Past
from orchestrator.patience import Once, Work, patiently
from orchestrator.settings import Settings
from orchestrator.tables import Run
from orchestrator.windows import Windows

log = structlog.get_logger(__name__)

T = TypeVar("T")

CLAIMING = 60.0
"""Seconds that a wake-up waits for the database; housekeeping sends those again that came to nothing."""
CALM = 2.0
"""Seconds that a run which was left behind lets others be claimed before it is read."""
LULL = 0.05
"""Seconds without a further run that was left behind, after which all are thought to be claimed: their wake-ups come
one after the other.
"""
UNREADABLE = {"code": "server_error", "message": "What is stored of this run or of its thread cannot be read."}


class Claims:
    """Takes runs under the name `owner`. `unread`: those that are claimed but not read, and the attempts at them."""

    def __init__(self, database: Database, owner: str, settings: Settings, windows: Windows) -> None:
        self.unread: dict[str, int] = {}
        self._database = database
        self._owner = owner
        self._lease = settings.run_lease
        self._windows = windows
        self._under_way = 0
        self._left_behind = 0

    async def take(self, run_id: str, attempt: int | None = None) -> Journal | None:
        """The journal of the run, if it waits for a worker, and is at the attempt if that is named. Outlasts a database
        that is away for a moment, and raises what that raised if it is away for long.
        """

        async def claim(session: Session) -> Run | Journal | None:
            claimed = await lifecycle.claim(session, run_id, self._owner, self._lease, attempt)
            if claimed is None or claimed.left_behind:
                return claimed and claimed.run
            return await self._journal(session, claimed.run, self._deadline(claimed.run))

        try:
            with self._claiming():
                taken = await self._patiently(Once(self._database), claim)
        except Exception as error:
            if db.passes(error):
                raise
            log.exception("run_unreadable", run_id=run_id)
            await self._fail_unread(run_id, attempt)
            return None
        if taken is not None:
            run = taken if isinstance(taken, Run) else taken.run
            known = {"run_id": run.id, "thread_id": run.thread_id, "attempt": run.attempt}
            log.info("run_claimed", **known, worker=attempts.worker(), model=run.model)
        return await self._take_over(taken) if isinstance(taken, Run) else taken

    async def _take_over(self, run: Run) -> Journal | None:
        async def recall(session: Session) -> Journal:
            await lifecycle.hold(session, run)
            before = await attempts.before(session, run)
            await closing.close_torn(session, run)
            journal = await self._journal(session, run, deadline)
            log.info("run_taken_over", run_id=run.id, attempt=run.attempt, before=before)
            return journal

        self.unread[run.id], deadline = run.attempt, self._deadline(run)
        self._left_behind += 1
        try:
            await self._all_are_claimed()
            return await self._patiently(Once(self._database), recall)
        except (LeaseLost, RunCancelled):
            await self.end_unread(run)
        except Exception as error:
            if db.passes(error):
                raise  # nobody renews its lease
            log.exception("run_unreadable", run_id=run.id)
            await self.end_unread(run)
        except BaseException:  # a shutdown
            await asyncio.shield(self._release(run))
            raise
        finally:
            if self.unread.get(run.id) == run.attempt:  # it may have been taken from us, and have come back
                del self.unread[run.id]
        return None

    def _deadline(self, claimed: Run) -> float:
        """When a run expires that was claimed this moment, on the loop's clock."""
        return asyncio.get_running_loop().time() + lifecycle.time_left(claimed, self._lease)

    async def _journal(self, session: Session, run: Run, deadline: float) -> Journal:
        context = Past(self._database, run, window := self._windows.of(run.model))
        await context.begin(session)
        own = await past.own(session, run)
        return Journal(self._database, run, session.track(run.id, run.attempt), context, own, window, deadline)

    async def _fail_unread(self, run_id: str, attempt: int | None) -> None:
        """The claim was undone because the run could not be read: it is made again, alone."""
        async with self._database.transaction() as session:
            claimed = await lifecycle.claim(session, run_id, self._owner, self._lease, attempt)
        if claimed is not None:
            await self.end_unread(claimed.run, session)

    async def end_unread(self, run: Run, claimed: Session | None = None) -> None:
        """End a run of which there is no journal: as cancelled, if that was wished, or as one that cannot be read.
        `claimed` is the transaction whose events come before.
        """

        async def line(session: Session) -> Run | None:
            try:
                await lifecycle.hold(session, run, ending=True)
            except RunCancelled:
                return await closing.end(session, run, "cancelled", attempt="same")
            return await closing.end(session, run, "failed", attempt="same", last_error=UNREADABLE)

        track = None if claimed is None else claimed.track(run.id, run.attempt)
        try:
            ended = await self._patiently(Once(self._database, track), line)
        except LeaseLost:
            log.warning("run_left", run_id=run.id, reason="LeaseLost")
        else:
            log.info("run_ended", run_id=run.id, status=ended and ended.status)

    async def _release(self, run: Run) -> None:
        async with self._database.transaction() as session:
            await lifecycle.release(session, run)
        log.info("run_released", run_id=run.id, reason="handed over")

    async def _patiently(self, once: Once, work: Work[T]) -> T:
        until = asyncio.get_running_loop().time() + CLAIMING
        return await patiently(self._database, lambda: once.attempt(work), until=until)

    @contextmanager
    def _claiming(self) -> Iterator[None]:
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def _all_are_claimed(self) -> None:
        """Return when no claim is under way and none of a run that was left behind was made for a moment, or when that
        takes so long that others have to wait.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(CALM):
                known = -1
                while self._under_way or self._left_behind != known:
                    known = self._left_behind
                    await asyncio.sleep(LULL)
