"""Assistants, threads and what is said in them."""

from sqlalchemy import Index
from sqlmodel import Field, SQLModel

from orchestrator import ids
from orchestrator.foreign import Json
from orchestrator.tables.columns import created, json, metadata, owner, position, time_


class Assistant(SQLModel, table=True):
    """A model with instructions and tools, as a client configured it."""

    __tablename__ = "assistants"
    __table_args__ = (Index(None, "project_id", "position"),)

    id: str = Field(primary_key=True, default_factory=lambda: ids.new("asst_"))
    position: int = position()
    project_id: str = owner("projects")
    created_at: int = created()
    name: str | None = None
    description: str | None = None
    model: str
    instructions: str | None = None
    tools: list[Json] = json([])
    tool_resources: Json = json({})
    metadata_: dict[str, str] = metadata()
    temperature: float = 1.0
    top_p: float = 1.0
    reasoning_effort: str | None = None
    response_format: str | Json = json("auto")


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
    position: int = position()
    project_id: str = owner("projects")
    created_at: int = created()
    tool_resources: Json = json({})
    metadata_: dict[str, str] = metadata()
    on_active_run: str = "reject"


class Message(SQLModel, table=True):
    """What a user or an assistant said. `content` holds wire parts."""

    __tablename__ = "messages"
    __table_args__ = (Index(None, "thread_id", "position"), Index(None, "run_id", "thread_id", "position"))

    id: str = Field(primary_key=True, default_factory=lambda: ids.new("msg_"))
    position: int = position()
    thread_id: str = owner("threads")
    created_at: int = created()
    role: str
    status: str = "completed"
    content: list[Json] = json([])
    attachments: list[Json] = json([])
    metadata_: dict[str, str] = metadata()
    assistant_id: str | None = None
    run_id: str | None = None
    incomplete_details: Json | None = json(nullable=True)
    completed_at: int | None = time_()
    incomplete_at: int | None = time_()
