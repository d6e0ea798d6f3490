"""Tenants and their keys."""

from sqlalchemy import Column, ForeignKey
from sqlmodel import Field, SQLModel

from orchestrator import ids
from orchestrator.tables.columns import created


class Project(SQLModel, table=True):
    """A tenant: keys belong to it, and everything else that it made."""

    __tablename__ = "projects"

    id: str = Field(primary_key=True, default_factory=lambda: ids.new("proj_"))
    name: str = Field(unique=True)
    created_at: int = created()


class ApiKey(SQLModel, table=True):
    """A bearer key, of which only the SHA-256 is kept (keys are random, so a slow hash would add nothing)."""

    __tablename__ = "api_keys"

    id: str = Field(primary_key=True, default_factory=lambda: ids.new("key_"))
    project_id: str = Field(sa_column=Column(ForeignKey("projects.id", ondelete="CASCADE"), nullable=False, index=True))
    hash: str = Field(unique=True)
    hint: str
    created_at: int = created()
