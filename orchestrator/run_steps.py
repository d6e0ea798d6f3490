"""The run steps' verbs: steps are read, and written by runs only."""

from sqlalchemy import select
from sqlmodel import col

from orchestrator import ids, runs
from orchestrator.db import Session
from orchestrator.errors import NotFound
from orchestrator.pages import page
from orchestrator.tables import Run, RunStep
from orchestrator.wire.requests import ListRunStepsQuery


async def retrieve(session: Session, project_id: str, thread_id: str, run_id: str, step_id: str) -> tuple[Run, RunStep]:
    """The step and its run. Raises InvalidRequest for what cannot be an id, NotFound."""
    ids.check("step_id", "step_", step_id)
    run = await runs.retrieve(session, project_id, thread_id, run_id)
    query = select(RunStep).where(col(RunStep.id) == step_id, col(RunStep.run_id) == run.id)
    step = (await session.execute(query)).scalar_one_or_none()
    if step is None:
        raise NotFound("run step", step_id)
    return run, step


async def list_(
    session: Session, project_id: str, thread_id: str, run_id: str, query: ListRunStepsQuery
) -> tuple[Run, list[RunStep], bool]:
    """A page of the run's steps with the run, and whether there are more."""
    run = await runs.retrieve(session, project_id, thread_id, run_id)
    steps, more = await page(session, RunStep, query, col(RunStep.run_id) == run.id)
    return run, steps, more
