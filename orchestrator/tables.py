"""What Postgres stores: one class per noun, as the client sees it, plus what a run needs to be carried out safely.

Wire times are whole unix seconds, as clients know them; only leases and wake-ups, which the database's own clock
decides, are timestamps. `position` comes from one sequence for all tables: it never ties, so lists are ordered by it,
and messages and run steps of a thread can be told in the order in which they happened. JSON columns are replaced, never
changed in place: an in-place change would be lost without a word. SQLAlchemy owns the name `metadata`, hence
`metadata_`.
"""

import time
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, DateTime, ForeignKey, Index, Sequence, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from orchestrator import ids
from orchestrator.foreign import Json

ACTIVE = ("queued", "in_progress", "requires_action", "cancelling")
"""Statuses in which a run is not over, and owns its thread unless it waits for its turn."""

SQLModel.metadata.naming_convention = {
    "ix": "%(table_name)s_%(column_0_N_name)s",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "pk": "%(table_name)s_pkey",
}
POSITIONS = Sequence("positions", metadata=SQLModel.metadata)
JSON = postgresql.JSON(none_as_null=True)
"""Kept as it came: JSONB would sort the keys, and the order of a schema's properties steers what a model writes."""
IS_UNFINISHED = text(f"status IN ({', '.join(repr(status) for status in ACTIVE)})")
"""A condition of partial indexes on runs, in literals: a planner cannot match parameters to it."""
IS_ACTIVE = text(f"{IS_UNFINISHED.text} AND NOT waiting")
"""The run owns its thread: it is not over, and its turn has come."""
IS_WAITING = text("waiting")
"""The run was created behind another, and its turn has not come."""


def now() -> int:
    """The time on the wire: whole unix seconds."""
    return int(time.time())


def _position() -> Any:
    return Field(
        default=None, sa_type=BigInteger, nullable=False, sa_column_kwargs={"server_default": POSITIONS.next_value()}
    )


def _json(default: Any = None, *, nullable: bool = False) -> Any:
    return Field(default_factory=lambda: default, sa_type=JSON, nullable=nullable)


def _time(*, nullable: bool = True) -> Any:
    return Field(default=None if nullable else ..., sa_type=BigInteger, nullable=nullable)


def _created() -> Any:
    return Field(default_factory=now, sa_type=BigInteger, nullable=False)


def _at_once() -> Any:
    return Field(
        default=None,
        sa_type=DateTime(timezone=True),
        nullable=False,
        sa_column_kwargs={"server_default": text("now()")},
    )


def _metadata() -> Any:
    return Field(default_factory=dict, sa_column=Column("metadata", JSONB, nullable=False))


def _owner(table: str) -> Any:
    return Field(sa_column=Column(ForeignKey(f"{table}.id", ondelete="CASCADE"), nullable=False))


class Project(SQLModel, table=True):
    """A tenant: keys belong to it, and everything else that it made."""

    __tablename__ = "projects"

    id: str = Field(primary_key=True, default_factory=lambda: ids.new("proj_"))
    name: str = Field(unique=True)
    created_at: int = _created()


class ApiKey(SQLModel, table=True):
    """A bearer key, of which only the SHA-256 is kept (keys are random, so a slow hash would add nothing)."""

    __tablename__ = "api_keys"

    id: str = Field(primary_key=True, default_factory=lambda: ids.new("key_"))
    project_id: str = Field(sa_column=Column(ForeignKey("projects.id", ondelete="CASCADE"), nullable=False, index=True))
    hash: str = Field(unique=True)
    hint: str
    created_at: int = _created()


class Assistant(SQLModel, table=True):
    """A model with instructions and tools, as a client configured it."""

    __tablename__ = "assistants"
    __table_args__ = (Index(None, "project_id", "position"),)

    id: str = Field(primary_key=True, default_factory=lambda: ids.new("asst_"))
    position: int = _position()
    project_id: str = _owner("projects")
    created_at: int = _created()
    name: str | None = None
    description: str | None = None
    model: str
    instructions: str | None = None
    tools: list[Json] = _json([])
    tool_resources: Json = _json({})
    metadata_: dict[str, str] = _metadata()
    temperature: float = 1.0
    top_p: float = 1.0
    reasoning_effort: str | None = None
    response_format: str | Json = _json("auto")


class Thread(SQLModel, table=True):
    """A conversation. `on_active_run` says what happens to a run that is created while another is active."""

    __tablename__ = "threads"
    __table_args__ = (
        Index(None, "project_id", "position"),
        Index(
            "threads_metadata",
            "metadata",
            postgresql_using="gin",
            postgresql_ops={"metadata": "jsonb_path_ops"},
        ),
    )

    id: str = Field(primary_key=True, default_factory=lambda: ids.new("thread_"))
    position: int = _position()
    project_id: str = _owner("projects")
    created_at: int = _created()
    tool_resources: Json = _json({})
    metadata_: dict[str, str] = _metadata()
    on_active_run: str = "reject"


class Message(SQLModel, table=True):
    """What a user or an assistant said. `content` holds wire parts."""

    __tablename__ = "messages"
    __table_args__ = (Index(None, "thread_id", "position"), Index(None, "run_id", "thread_id", "position"))

    id: str = Field(primary_key=True, default_factory=lambda: ids.new("msg_"))
    position: int = _position()
    thread_id: str = _owner("threads")
    created_at: int = _created()
    role: str
    status: str = "completed"
    content: list[Json] = _json([])
    attachments: list[Json] = _json([])
    metadata_: dict[str, str] = _metadata()
    assistant_id: str | None = None
    run_id: str | None = None
    incomplete_details: Json | None = _json(nullable=True)
    completed_at: int | None = _time()
    incomplete_at: int | None = _time()


class Run(SQLModel, table=True):
    """One execution of an assistant on a thread: what the client asked for, how far it is, and who is at work on it.

    `attempt` is the fence: it grows with every claim and with every write from outside an attempt, and whoever writes
    says which attempt it speaks for. `owner` names the worker process, `lease_until` how long its silence is believed.
    `wake_at` is when housekeeping enqueues the run again if nobody has taken it by then. A run that is `waiting` does
    not own its thread yet (see `turns`); until it does, its `additional_messages` stand here and not in the thread.
    """

    __tablename__ = "runs"
    __table_args__ = (
        Index(None, "thread_id", "position"),
        Index("runs_one_active_per_thread", "thread_id", unique=True, postgresql_where=IS_ACTIVE),
        Index("runs_waiting", "thread_id", "position", postgresql_where=IS_WAITING),
        Index("runs_unfinished_expires_at", "expires_at", postgresql_where=IS_UNFINISHED),
        Index("runs_active_owner", "owner", postgresql_where=IS_ACTIVE),
    )

    id: str = Field(primary_key=True, default_factory=lambda: ids.new("run_"))
    position: int = _position()
    thread_id: str = _owner("threads")
    assistant_id: str
    created_at: int = _created()
    status: str = "queued"
    started_at: int | None = _time()
    expires_at: int = _time(nullable=False)
    cancelled_at: int | None = _time()
    failed_at: int | None = _time()
    completed_at: int | None = _time()
    required_action: Json | None = _json(nullable=True)
    last_error: Json | None = _json(nullable=True)
    incomplete_details: Json | None = _json(nullable=True)
    usage: Json | None = _json(nullable=True)
    model: str
    instructions: str | None = None
    tools: list[Json] = _json([])
    tool_resources: Json = _json({})
    metadata_: dict[str, str] = _metadata()
    temperature: float = 1.0
    top_p: float = 1.0
    reasoning_effort: str | None = None
    max_completion_tokens: int | None = None
    max_prompt_tokens: int | None = None
    truncation_strategy: Json = _json({"type": "auto", "last_messages": None})
    response_format: str | Json = _json("auto")
    tool_choice: str | Json = _json("auto")
    parallel_tool_calls: bool = Field(default=True, sa_type=Boolean)

    waiting: bool = Field(default=False, sa_type=Boolean)
    additional_messages: list[Json] | None = _json(nullable=True)
    attempt: int = 0
    owner: str | None = None
    lease_until: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))
    wake_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))


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
    position: int = _position()
    run_id: str = _owner("runs")
    thread_id: str
    assistant_id: str
    created_at: int = _created()
    type: str
    status: str = "in_progress"
    step_details: Json = _json({})
    last_error: Json | None = _json(nullable=True)
    usage: Json | None = _json(nullable=True)
    metadata_: dict[str, str] = _metadata()
    expired_at: int | None = _time()
    cancelled_at: int | None = _time()
    failed_at: int | None = _time()
    completed_at: int | None = _time()


class File(SQLModel, table=True):
    """Bytes that a client or a tool stored, under a name. The row is written last: where it is, its bytes are.

    The bytes are the file's blobs, one after the other in the order of `ordinal`. A file past `expires_at` is gone for
    everybody, even before housekeeping removes it.
    """

    __tablename__ = "files"
    __table_args__ = (
        Index(None, "project_id", "position"),
        Index(None, "project_id", "purpose", "position"),
        Index("files_expires_at", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
    )

    id: str = Field(primary_key=True, default_factory=lambda: ids.new("file-"))
    position: int = _position()
    project_id: str = _owner("projects")
    created_at: int = _created()
    purpose: str
    filename: str
    bytes: int = Field(sa_type=BigInteger)
    expires_at: int | None = _time()


class Upload(SQLModel, table=True):
    """A file that arrives in parts. `pending` until it is completed, cancelled or expired."""

    __tablename__ = "uploads"
    __table_args__ = (Index(None, "status", "expires_at"),)

    id: str = Field(primary_key=True, default_factory=lambda: ids.new("upload_"))
    project_id: str = Field(sa_column=Column(ForeignKey("projects.id", ondelete="CASCADE"), nullable=False, index=True))
    created_at: int = _created()
    expires_at: int = _time(nullable=False)
    status: str = "pending"
    purpose: str
    filename: str
    bytes: int = Field(sa_type=BigInteger)
    mime_type: str
    lifetime: int | None = _time()
    """Seconds that the file will live from the upload's creation; None for ever."""
    file_id: str | None = None


class UploadPart(SQLModel, table=True):
    """A piece of an upload, wholly arrived."""

    __tablename__ = "upload_parts"

    id: str = Field(primary_key=True, default_factory=lambda: ids.new("part_"))
    upload_id: str = Field(sa_column=Column(ForeignKey("uploads.id", ondelete="CASCADE"), nullable=False, index=True))
    created_at: int = _created()
    bytes: int = Field(sa_type=BigInteger)


class Blob(SQLModel, table=True):
    """One object of the storage. Its row is there before its first byte and until after its last.

    It belongs to a file or to a part of an upload. What belongs to neither (any more) is removed by housekeeping once
    `kept_until` is past: that is how bytes whose writer was killed go, and those of a deleted file. Whoever removes it
    says `doomed` first, whoever gives it an owner does so only while it is not: never both.
    """

    __tablename__ = "blobs"
    __table_args__ = (
        Index("blobs_loose", "kept_until", postgresql_where=text("file_id IS NULL AND part_id IS NULL")),
        Index(None, "file_id", "ordinal"),
        Index(None, "part_id"),
    )

    id: str = Field(primary_key=True, default_factory=lambda: ids.new("blob_"))
    bytes: int = Field(default=0, sa_type=BigInteger)
    file_id: str | None = Field(default=None, sa_column=Column(ForeignKey("files.id", ondelete="SET NULL")))
    part_id: str | None = Field(default=None, sa_column=Column(ForeignKey("upload_parts.id", ondelete="SET NULL")))
    ordinal: int = 0
    kept_until: datetime = Field(sa_type=DateTime(timezone=True))
    doomed: bool = Field(default=False, sa_type=Boolean)


class WebhookDelivery(SQLModel, table=True):
    """An event that is to be posted, until it has been; see `webhooks`.

    `not_before` keeps others away: while somebody is at it, and until it is to be tried again. `wake_at` is when it is
    enqueued again if nothing has become of it by then.
    """

    __tablename__ = "webhook_deliveries"
    __table_args__ = (Index(None, "wake_at"),)

    id: str = Field(primary_key=True, default_factory=lambda: ids.new("evt_"))
    created_at: int = _created()
    type: str
    data: Json = _json({})
    attempts: int = 0
    not_before: datetime = _at_once()
    wake_at: datetime = _at_once()
