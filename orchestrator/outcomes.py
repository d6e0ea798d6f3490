"""The outcome of a run that stands still, as the frame that closes a stream which Redis no longer knows."""

from collections.abc import Awaitable, Callable

from sqlalchemy import select
from sqlmodel import col

from orchestrator.db import Database
from orchestrator.events.frames import RESTING
from orchestrator.tables import Run
from orchestrator.wire import objects


def outcome_of(database: Database) -> Callable[[str], Awaitable[bytes | None]]:
    """A function from a run's id to its closing frame: None while it moves, a comment if it is gone."""

    async def outcome(run_id: str) -> bytes | None:
        async with database.transaction() as session:
            run = (await session.execute(select(Run).where(col(Run.id) == run_id))).scalar_one_or_none()
        if run is None:
            return b": gone\n"
        event = f"thread.run.{run.status}"
        if event not in RESTING:
            return None
        return b"event: %s\ndata: %s\n\n" % (event.encode(), objects.dump(objects.run(run)))

    return outcome
