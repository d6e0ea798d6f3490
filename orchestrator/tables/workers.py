"""Worker processes, and what is known of each attempt at a run."""

from datetime import datetime

from sqlalchemy import Column, DateTime, ForeignKey
from sqlmodel import Field, SQLModel

from orchestrator.tables.columns import at_once


class Worker(SQLModel, table=True):
    """A worker process that has not left in order. `owner` is the name under which it claims runs; see `presence`.

    A row whose advisory lock is not held is that of a process that died; see `orphans`.
    """

    __tablename__ = "workers"

    owner: str = Field(primary_key=True)
    name: str
    started_at: datetime = at_once()


class RunAttempt(SQLModel, table=True):
    """One claim of a run, from the claim to the moment at which the worker no longer had it; see `attempts`.

    `worker` is its name, kept here because the worker's own row goes with the process.
    """

    __tablename__ = "run_attempts"

    run_id: str = Field(sa_column=Column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True))
    attempt: int = Field(primary_key=True)
    worker: str
    started_at: datetime = at_once()
    ended_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))
    outcome: str | None = None
    detail: str | None = None
