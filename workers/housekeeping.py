"""Housekeeping on beat's slow schedule: a second way, should no worker's own loop be at it."""

from orchestrator import housekeeping
from workers.app import app
from workers.pool import async_task
from workers.runs import Worker


@async_task(app, name="housekeeping.sweep")
async def sweep() -> None:
    """One sweep."""
    await housekeeping.sweep(Worker.resources.database)
