"""Claims that are made at about the same time, made together: one trip to Postgres for the runs of a worker process.

    wake-ups ─▶ batch ─▶ one statement: claim, and read ─▶ a row for each run that was taken
                                                        └▶ None: not plain, not free, not there; `Claims` asks alone

A statement whose answer was lost is repeated, once Postgres is not at it any more, and finds what it has taken
already. So only one claim of a run may be under way in this process: whoever comes second waits for the first, and does
not ask for what that has claimed (see `Claims`). A claim whose caller is cancelled gives back what it has taken all the
same: nobody would carry it, and it would count as lost.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from orchestrator import attempts, db
from orchestrator.batching import Batch
from orchestrator.db import Database
from orchestrator.direct import Direct
from orchestrator.execution import arriving
from orchestrator.foreign import Json
from orchestrator.patience import patiently
from orchestrator.plain_lines import FREE

log = structlog.get_logger(__name__)

LEAVING: Final = 5.0
"""Seconds for which a caller that is cancelled waits for what it has asked for."""


@dataclass(slots=True)
class _Wanted:
    """A run that somebody wants. `answer` is the last statement's, also for who no longer waits for it."""

    run_id: str
    attempt: int
    tries: int = 0
    answer: asyncio.Future[Json] | None = None


class Arrivals:
    """Claims under the name `owner`. `give_back` gets the rows of those that were claimed for nobody."""

    def __init__(
        self, database: Database, direct: Direct, owner: str, lease: float, give_back: Callable[[Json], Awaitable[None]]
    ) -> None:
        self._database = database
        self._direct = direct
        self._owner = owner
        self._lease = lease
        self._give_back = give_back
        self._first = Batch(self._claim)
        self._again = Batch(self._claim_again)

    async def take(self, run_id: str, attempt: int, until: float) -> Json | None:
        """The row of the run, if it could be claimed so. Outlasts a database that is away until that time of the loop's
        clock, and raises what that raised if it is away for longer.

        Nobody else of this process may be claiming the run, or have claimed it at that attempt.
        """
        wanted = _Wanted(run_id, attempt)
        try:
            return await patiently(self._database, lambda: self._ask(wanted), until=until)
        except asyncio.CancelledError:
            await asyncio.shield(self._leave(wanted))
            raise
        except Exception as error:
            if db.passes(error):
                raise
            return None  # one of the batch, it may be: each is tried alone

    async def _ask(self, wanted: _Wanted) -> Json | None:
        wanted.tries += 1
        if wanted.tries == 1:
            return await self._first(wanted)
        await self._direct.fetch(FREE, wanted.run_id)  # Postgres may still be at the statement that was not answered
        return await self._again(wanted)

    async def _claim(self, wanted: list[_Wanted]) -> Sequence[Json | None]:
        return await self._carry_out(arriving.STATEMENT, wanted)

    async def _claim_again(self, wanted: list[_Wanted]) -> Sequence[Json | None]:
        return await self._carry_out(arriving.AGAIN, wanted)

    async def _carry_out(self, statement: str, wanted: list[_Wanted]) -> Sequence[Json | None]:
        loop = asyncio.get_running_loop()
        for one in wanted:
            one.answer = loop.create_future()
        rows: dict[str, Json] = {}
        try:
            found = await self._direct.fetch(
                statement,
                [one.run_id for one in wanted],
                [one.attempt for one in wanted],
                self._owner,
                self._lease,
                attempts.worker(),
                *arriving.bounds(),
            )
            rows = {row["id"]: row for row in found}
            return [rows.get(one.run_id) for one in wanted]
        except Exception as error:
            if not db.passes(error):
                log.error("claims_failed", error=db.describe(error), runs=len(wanted))
            raise
        finally:
            for one in wanted:
                if one.answer is not None:
                    one.answer.set_result(rows.get(one.run_id))

    async def _leave(self, wanted: _Wanted) -> None:
        if (answer := wanted.answer) is None:
            return
        try:
            async with asyncio.timeout(LEAVING):
                if (row := await answer) is not None:
                    await self._give_back(row)
        except Exception as error:  # it goes when its lease is over
            log.warning("claim_left", run_id=wanted.run_id, error=db.describe(error))
