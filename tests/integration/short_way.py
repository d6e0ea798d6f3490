"""A thread with an assistant, the short way to it as of one process or several, and what is stored in the end."""

from typing import Any, Self

import sqlalchemy as sa
from sqlmodel import col

from orchestrator import assistants, threads
from orchestrator.db import Database
from orchestrator.direct import Direct
from orchestrator.plain.verbs import Plain
from orchestrator.resources import Resources
from orchestrator.tables import Message, Run, Thread
from orchestrator.wire.requests import CreateAssistant, CreateMessage
from tests.integration.scene import Scene

Json = Any

HI = CreateMessage(role="user", content="Hi")
OWN = {"id", "position", "thread_id", "wake_at", "created_at", "expires_at", "completed_at"}
"""Columns that no two rows of a kind share, or that depend on the second."""
ASSISTANT = {
    "model": "gpt-4o",
    "instructions": "Be kind.",
    "temperature": 0.5,
    "tools": [{"type": "function", "function": {"name": "z", "parameters": {"z": 1, "a": {"y": None}}}}],
    "metadata": {"of": "the assistant"},
}


class ShortWay(Scene):
    """See the module."""

    @classmethod
    async def to_a_new_thread(cls, bare: Resources, project_id: str) -> Self:
        """Of a project in the bare database."""
        async with bare.database.transaction() as session:
            assistant = await assistants.create(session, project_id, CreateAssistant.model_validate(ASSISTANT))
            thread = await threads.create(session, project_id, None)
        return cls(bare, project_id, thread.id, assistant.id)

    @property
    def direct(self) -> Direct:
        """The short way to Postgres."""
        assert self.bare.database.direct is not None
        return self.bare.database.direct

    def plain(self, database: Database | None = None, direct: Direct | None = None) -> Plain:
        """The verbs, as one process has them."""
        return Plain(database or self.bare.database, direct or self.direct, 600)

    async def another(self) -> str:
        """A further thread of the project."""
        async with self.bare.database.transaction() as session:
            return (await threads.create(session, self.project_id, None)).id

    async def stored(self, thread_id: str) -> dict[str, list[dict[str, Json]]]:
        """All that belongs to a thread, but for what no two rows share."""
        return {
            "thread": await self._rows(Thread, col(Thread.id) == thread_id),
            "messages": await self._rows(Message, col(Message.thread_id) == thread_id),
            "runs": await self._rows(Run, col(Run.thread_id) == thread_id),
        }

    async def _rows(self, table: type[Any], condition: Json) -> list[dict[str, Json]]:
        columns = table.__table__.c
        query = sa.select(*columns).where(condition).order_by(columns.position)
        async with self.bare.database.engine.connect() as connection:
            found = (await connection.execute(query)).mappings()
            return [{name: value for name, value in row.items() if name not in OWN} for row in found]
