"""Takes runs for a worker process: claims them, and reads what their journals begin with.

    queued ───────claim, and read, with all that come at the same time─────────────────▶ journal
      (not so plain)──claim, and read─────────────────────────────────────────────────▶ journal
    left behind ──claim──▶ wait until no claim is under way ──▶ close what is torn, read ──▶ journal

When a worker dies, all its runs come at once, and each has waited already. To claim one takes a statement; to read it,
and to ask the model, takes ten times as long. So all are claimed before the first of them is read.

Of the runs that are queued, those that are as they should be are claimed and read together (see `arrivals`); for each
of the others there is a transaction.

A run that is claimed and cannot be read is failed here: whoever claimed it next would find the same.

Wake-ups come twice. One for an attempt that this process has claimed already must not be asked about: if Postgres went
away, and it were asked again, what was claimed for the first would look like the answer to the second. So every claim
is held in mind until the run is known to be left: a row may say that the run is ours while nobody carries it.
"""

import asyncio
from contextlib import suppress
from typing import TypeVar

import structlog

from orchestrator import attempts, closing, db, lifecycle, mending
from orchestrator.db import Database, Session
from orchestrator.errors import LeaseLost, RunCancelled
from orchestrator.events.frames import Track
from orchestrator.execution import arriving, past
from orchestrator.execution.arrivals import Arrivals
from orchestrator.execution.journal import Journal
from orchestrator.execution.past import Past
from orchestrator.foreign import Json
from orchestrator.giving import Giving
from orchestrator.patience import Once, Work, patiently
from orchestrator.plain_lines import PlainLines
from orchestrator.settings import Settings
from orchestrator.tables import Run
from orchestrator.windows import Windows
from orchestrator.wire import objects

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
HELD = 10
"""Claims that are held in mind, for each run that may be carried at once: all but a few are left in order."""
UNREADABLE = {"code": "server_error", "message": "What is stored of this run or of its thread cannot be read."}


class Claims:
    """Takes runs under the name `owner`. `unread`: those that are claimed but not read, and the attempts at them."""

    def __init__(self, database: Database, owner: str, settings: Settings, windows: Windows) -> None:
        self.unread: dict[str, int] = {}
        self._database = database
        self._owner = owner
        self._lease = settings.run_lease
        self._windows = windows
        self._under_way: dict[str, asyncio.Event] = {}
        self._held: dict[str, int] = {}
        self._most = HELD * settings.run_concurrency
        self._alone = self._left_behind = 0
        self._giving = Giving(database)
        self._plain: PlainLines | None = None
        self._arrivals: Arrivals | None = None
        if database.direct is not None:
            self._plain = PlainLines(database.direct, database.bounds, self._giving.freed)
            self._arrivals = Arrivals(database, database.direct, owner, self._lease, self._release_row)

    async def take(self, run_id: str, attempt: int | None = None) -> Journal | None:
        """The journal of the run, if it waits for a worker, and is at the attempt if that is named. Outlasts a database
        that is away for a moment, and raises what that raised if it is away for long.
        """
        while (other := self._under_way.get(run_id)) is not None:  # a wake-up that came twice
            await other.wait()
        if attempt is not None and attempt < self._held.get(run_id, 0):
            return None
        self._under_way[run_id] = done = asyncio.Event()
        row, taken = None, None
        try:
            if self._arrivals is not None and attempt is not None:
                row = await self._arrivals.take(run_id, attempt, asyncio.get_running_loop().time() + CLAIMING)
            if row is None:
                taken = await self._take_alone(run_id, attempt)
            claimed = self._hold(run_id, row, taken)
        finally:
            del self._under_way[run_id]
            done.set()
        journal = await self._begun(row, taken)
        if journal is None:
            self.left(run_id, claimed)
        return journal

    def left(self, run_id: str, attempt: int) -> None:
        """This process is not at that attempt any more, and the run's row says so."""
        if self._held.get(run_id) == attempt:
            del self._held[run_id]

    async def close(self) -> None:
        """Give away what runs have freed, if that takes but a moment. Nothing is taken any more."""
        await self._giving.close()

    def _hold(self, run_id: str, row: Json | None, taken: Run | Journal | None) -> int:
        """Note what was claimed, at once: the next wake-up may be for the same. Returns the attempt; 0 if none was."""
        if row is not None:
            attempt: int = row["attempt"]
        elif taken is not None:
            attempt = taken.attempt if isinstance(taken, Run) else taken.run.attempt
        else:
            return 0
        self._held.pop(run_id, None)
        self._held[run_id] = attempt
        if len(self._held) > self._most:
            del self._held[next(iter(self._held))]
        return attempt

    async def _begun(self, row: Json | None, taken: Run | Journal | None) -> Journal | None:
        """The journal of a run that was claimed with others, or alone."""
        if row is not None:
            return await self._receive(row)
        if taken is None:
            return None
        _log_claimed(taken if isinstance(taken, Run) else taken.run)
        return await self._take_over(taken) if isinstance(taken, Run) else taken

    async def _receive(self, row: Json) -> Journal | None:
        """The journal of a run that has come with all that it begins with."""
        try:
            run = arriving.run_of(row)
        except ValueError:
            log.exception("run_unreadable", run_id=row["id"])
            await self._fail_mended(row["id"], row["attempt"])
            return None
        track, deadline = Track(run.id, run.attempt), self._deadline(run)
        self._tell_begun(run, track)
        _log_claimed(run)
        try:
            page, own = arriving.page_of(row), arriving.own_of(row)
            context = Past(self._database, run, window := self._windows.of(run.model))
            if page is not None:
                context.begun(page)
                return Journal(self._database, run, track, context, own, window, deadline, self._plain)
        except Exception:
            log.exception("run_unreadable", run_id=run.id)
            await self.end_unread(run, track)
            return None
        return await self._read(run, self._begin(run, deadline), track)

    async def _take_alone(self, run_id: str, attempt: int | None) -> Run | Journal | None:
        async def claim(session: Session) -> Run | Journal | None:
            claimed = await lifecycle.claim(session, run_id, self._owner, self._lease, attempt)
            if claimed is None or claimed.left_behind:
                return claimed and claimed.run
            return await self._journal(session, claimed.run, self._deadline(claimed.run))

        self._alone += 1
        try:
            return await self._patiently(Once(self._database), claim)
        except Exception as error:
            if db.passes(error):
                raise
            log.exception("run_unreadable", run_id=run_id)
            await self._fail_unread(run_id, attempt)
            return None
        finally:
            self._alone -= 1

    async def _take_over(self, run: Run) -> Journal | None:
        async def recall(session: Session) -> Journal:
            await lifecycle.hold(session, run)
            before = await attempts.before(session, run)
            await closing.close_torn(session, run)
            journal = await self._journal(session, run, deadline)
            log.info("run_taken_over", run_id=run.id, attempt=run.attempt, before=before)
            return journal

        deadline = self._deadline(run)
        self._left_behind += 1
        return await self._read(run, recall, calm=True)

    def _begin(self, run: Run, deadline: float) -> Work[Journal]:
        async def begin(session: Session) -> Journal:
            await lifecycle.hold(session, run)
            return await self._journal(session, run, deadline)

        return begin

    async def _read(
        self, run: Run, work: Work[Journal], track: Track | None = None, *, calm: bool = False
    ) -> Journal | None:
        """Read a run that is claimed, once it is `calm`. Its `track`, if something of the attempt was told."""
        self.unread[run.id] = run.attempt
        try:
            if calm:
                await self._all_are_claimed()
            return await self._patiently(Once(self._database, track), work)
        except (LeaseLost, RunCancelled):
            await self.end_unread(run, track)
        except Exception as error:
            if db.passes(error):
                raise  # nobody renews its lease
            log.exception("run_unreadable", run_id=run.id)
            await self.end_unread(run, track)
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
        own, track = await past.own(session, run), session.track(run.id, run.attempt)
        return Journal(self._database, run, track, context, own, window, deadline, self._plain)

    async def _fail_unread(self, run_id: str, attempt: int | None) -> None:
        """The claim was undone because the run could not be read: it is made again, alone."""
        async with self._database.transaction() as session:
            await mending.mend(session, run_id)
            claimed = await lifecycle.claim(session, run_id, self._owner, self._lease, attempt)
        if claimed is not None:
            await self.end_unread(claimed.run, session.track(run_id, claimed.run.attempt))

    async def _fail_mended(self, run_id: str, attempt: int) -> None:
        """The run itself cannot be read that this attempt has claimed."""
        async with self._database.transaction() as session:
            await mending.mend(session, run_id)
            run = await session.get_one(Run, run_id)
        if run.attempt == attempt:
            track = Track(run_id, attempt)
            self._tell_begun(run, track)
            await self.end_unread(run, track)

    async def end_unread(self, run: Run, track: Track | None = None) -> None:
        """End a run of which there is no journal: as cancelled, if that was wished, or as one that cannot be read.
        `track` is the attempt's, if something of it was told.
        """

        async def line(session: Session) -> Run | None:
            try:
                await lifecycle.hold(session, run, ending=True)
            except RunCancelled:
                return await closing.end(session, run, "cancelled", attempt="same")
            return await closing.end(session, run, "failed", attempt="same", last_error=UNREADABLE)

        try:
            ended = await self._patiently(Once(self._database, track), line)
        except LeaseLost:
            log.warning("run_left", run_id=run.id, reason="LeaseLost")
        else:
            log.info("run_ended", run_id=run.id, status=ended and ended.status)

    def _tell_begun(self, run: Run, track: Track) -> None:
        self._database.publisher.frame(track.frame("thread.run.in_progress", objects.dump(objects.run(run))))

    async def _release_row(self, row: Json) -> None:
        run = arriving.run_of(row)
        self._tell_begun(run, Track(run.id, run.attempt))  # whoever takes it over will not
        await self._release(run)

    async def _release(self, run: Run) -> None:
        async with self._database.transaction() as session:
            await lifecycle.release(session, run)
        log.info("run_released", run_id=run.id, reason="handed over")

    async def _patiently(self, once: Once, work: Work[T]) -> T:
        until = asyncio.get_running_loop().time() + CLAIMING
        return await patiently(self._database, lambda: once.attempt(work), until=until)

    async def _all_are_claimed(self) -> None:
        """Return when no claim is under way that may be of a run which was left behind, and none of them was made for a
        moment, or when that takes so long that others have to wait.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(CALM):
                known = -1
                while self._alone or self._left_behind != known:
                    known = self._left_behind
                    await asyncio.sleep(LULL)


def _log_claimed(run: Run) -> None:
    known = {"run_id": run.id, "thread_id": run.thread_id, "attempt": run.attempt}
    log.info("run_claimed", **known, worker=attempts.worker(), model=run.model)
