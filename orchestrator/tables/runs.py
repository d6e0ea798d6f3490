"""Runs and their steps."""

from datetime import datetime

from sqlalchemy import Boolean, DateTime, Index, text
from sqlmodel import Field, SQLModel

from orchestrator import ids
from orchestrator.foreign import Json
from orchestrator.tables.columns import by_database, created, json, metadata, owner, position, time_

ACTIVE = ("queued", "in_progress", "requires_action", "cancelling")
"""Statuses in which a run is not over, and owns its thread unless it waits for its turn."""

IS_UNFINISHED = text(f"status IN ({', '.join(repr(status) for status in ACTIVE)})")
"""A condition of partial indexes on runs, in literals: a planner cannot match parameters to it."""
IS_ACTIVE = text(f"{IS_UNFINISHED.text} AND NOT waiting")
"""The run owns its thread: it is not over, and its turn has come."""
IS_WAITING = text("waiting")
"""The run was created behind another, and its turn has not come."""
IS_SUSPECT = text(f"{IS_ACTIVE.text} AND losses > 0")
"""A worker was lost while it carried the run, and nothing was achieved since."""
AT_REST = ("requires_action", "cancelled", "failed", "completed", "incomplete", "expired")
"""Statuses in which a run does not move by itself."""
HOLDS_PLACE = text(f"placed AND NOT waiting AND status NOT IN ({', '.join(repr(status) for status in AT_REST)})")
"""The run counts among those that are at work.

This and the next say what the status is not: had they said what it is, Postgres could take the index of all unfinished
runs instead of theirs, and now and then it did.
"""
LACKS_PLACE = text(
    HOLDS_PLACE.text.replace("placed AND", "NOT placed AND").replace("(", "('in_progress', 'cancelling', ")
)
"""The run is queued, and waits until there is room for it."""


class Run(SQLModel, table=True):
    """One execution of an assistant on a thread: what the client asked for, how far it is, and who is at work on it.

    `attempt` is the fence: it grows with every claim and with every write from outside an attempt, and whoever writes
    says which attempt it speaks for. `owner` names the worker process, `lease_until` how long its silence is believed.
    `wake_at` is when housekeeping enqueues the run again if nobody has taken it by then. `losses` counts the attempts
    that were lost with their workers since the run's last checkpoint (see `orphans`). A run that is `waiting` does
    not own its thread yet (see `turns`); until it does, its `additional_messages` stand here and not in the thread.
    One that is not `placed` is not woken (see `places`). `project_id` is the thread's, or empty if the run was over
    before there were places.
    """

    __tablename__ = "runs"
    __table_args__ = (
        Index(None, "thread_id", "position"),
        Index("runs_one_active_per_thread", "thread_id", unique=True, postgresql_where=IS_ACTIVE),
        Index("runs_waiting", "thread_id", "position", postgresql_where=IS_WAITING),
        Index("runs_unfinished_expires_at", "expires_at", postgresql_where=IS_UNFINISHED),
        Index("runs_active_owner", "owner", postgresql_where=IS_ACTIVE),
        Index("runs_active_losses", "losses", postgresql_where=IS_SUSPECT),
        Index("runs_with_a_place", "project_id", "position", postgresql_where=HOLDS_PLACE),
        Index("runs_without_a_place", "project_id", "position", postgresql_where=LACKS_PLACE),
    )

    id: str = Field(primary_key=True, default_factory=lambda: ids.new("run_"))
    position: int = position()
    thread_id: str = owner("threads")
    assistant_id: str
    created_at: int = by_database()
    status: str = "queued"
    started_at: int | None = time_()
    expires_at: int = by_database()
    cancelled_at: int | None = time_()
    failed_at: int | None = time_()
    completed_at: int | None = time_()
    required_action: Json | None = json(nullable=True)
    last_error: Json | None = json(nullable=True)
    incomplete_details: Json | None = json(nullable=True)
    usage: Json | None = json(nullable=True)
    model: str
    instructions: str | None = None
    tools: list[Json] = json([])
    tool_resources: Json = json({})
    metadata_: dict[str, str] = metadata()
    temperature: float = 1.0
    top_p: float = 1.0
    reasoning_effort: str | None = None
    max_completion_tokens: int | None = None
    max_prompt_tokens: int | None = None
    truncation_strategy: Json = json({"type": "auto", "last_messages": None})
    response_format: str | Json = json("auto")
    tool_choice: str | Json = json("auto")
    parallel_tool_calls: bool = Field(default=True, sa_type=Boolean)

    waiting: bool = Field(default=False, sa_type=Boolean)
    additional_messages: list[Json] | None = json(nullable=True)
    project_id: str = ""
    placed: bool = Field(default=True, sa_type=Boolean)
    attempt: int = 0
    owner: str | None = None
    lease_until: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))
    wake_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))
    losses: int = 0


class RunStep(SQLModel, table=True):
    """One thing that a run did: it wrote a message, or it called tools. `step_details` is the wire's own shape.

    `usage` is kept as soon as it is known and shown once the step is over.
    """

    __tablename__ = "run_steps"
    __table_args__ = (
        Index(None, "run_id", "position"),
        Index("run_steps_tool_calls", "thread_id", "position", postgresql_where=text("type = 'tool_calls'")),
    )

    id: str = Field(primary_key=True, default_factory=lambda: ids.new("step_"))
    position: int = position()
    run_id: str = owner("runs")
    thread_id: str
    assistant_id: str
    created_at: int = created()
    type: str
    status: str = "in_progress"
    step_details: Json = json({})
    last_error: Json | None = json(nullable=True)
    usage: Json | None = json(nullable=True)
    metadata_: dict[str, str] = metadata()
    expired_at: int | None = time_()
    cancelled_at: int | None = time_()
    failed_at: int | None = time_()
    completed_at: int | None = time_()
