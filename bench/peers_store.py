"""The rows of `bench.peers`, as peers keep them: objects of an ORM, one session and commit a transition."""

import os
import time
import uuid

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

DATABASE, REDIS, MODEL = "PEERS_DATABASE", "PEERS_REDIS", "PEERS_MODEL"
"""The environment that tells the processes where everything is."""


class Base(DeclarativeBase):
    """Of all tables here."""


class PeerMessage(Base):
    """What was said."""

    __tablename__ = "peer_messages"
    id: Mapped[str] = mapped_column(primary_key=True)
    thread_id: Mapped[str] = mapped_column(index=True)
    role: Mapped[str]
    content: Mapped[str]
    created_at: Mapped[float]


class PeerRun(Base):
    """A run."""

    __tablename__ = "peer_runs"
    id: Mapped[str] = mapped_column(primary_key=True)
    thread_id: Mapped[str] = mapped_column(index=True)
    model: Mapped[str]
    status: Mapped[str]
    created_at: Mapped[float]
    ended_at: Mapped[float | None]


class PeerStep(Base):
    """What it did."""

    __tablename__ = "peer_steps"
    id: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(index=True)
    status: Mapped[str]


def engine() -> AsyncEngine:
    """The way of this process to Postgres."""
    return create_async_engine(os.environ[DATABASE].replace("postgresql://", "postgresql+asyncpg://"))


def sessions(opened: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Sessions of it."""
    return async_sessionmaker(opened, expire_on_commit=False)


def new(prefix: str) -> str:
    """An id."""
    return f"{prefix}_{uuid.uuid4().hex}"


def now() -> float:
    """The time."""
    return time.time()
