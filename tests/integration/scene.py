"""A thread in the bare database, and what clients and workers do to it: for tests of runs that meet there."""

import asyncio

import sqlalchemy as sa
from sqlmodel import col

from orchestrator import closing, lifecycle, runs, threads
from orchestrator.resources import Resources
from orchestrator.tables import Message, Run
from orchestrator.wire.requests import CreateMessage, CreateRun


async def all_sent(bare: Resources) -> None:
    """Return when all that was told is in Redis: `flush` alone gives up after a second, for clients' sake."""
    publisher = bare.database.publisher
    async with asyncio.timeout(60):
        while publisher._wanted.is_set() or publisher._sending.locked():  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0.01)


class Scene:
    """A thread in the bare database, and what tests do to it."""

    def __init__(self, bare: Resources, project_id: str, thread_id: str, assistant_id: str) -> None:
        self.bare = bare
        self.project_id = project_id
        self.thread_id = thread_id
        self.assistant_id = assistant_id

    async def create(self, policy: str = "enqueue", said: str | None = None, *, lifetime: int = 600) -> Run:
        """Create a run."""
        messages = None if said is None else [CreateMessage(role="user", content=said)]
        body = CreateRun.model_validate({"assistant_id": self.assistant_id, "on_active_run": policy})
        body.additional_messages = messages
        async with self.bare.database.transaction() as session:
            return await runs.create(session, self.project_id, self.thread_id, body, lifetime=lifetime)

    async def cancel(self, run: Run) -> None:
        """Cancel a run as a client does."""
        async with self.bare.database.transaction() as session:
            await runs.cancel(session, self.project_id, self.thread_id, run.id)

    async def claim(self, run: Run) -> Run:
        """Take a run as a worker does."""
        async with self.bare.database.transaction() as session:
            claimed = await lifecycle.claim(session, run.id, "1", 60)
        assert claimed is not None
        return claimed[0]

    async def complete(self, claimed: Run) -> None:
        """End a claimed run as its worker does."""
        async with self.bare.database.transaction() as session:
            await lifecycle.hold(session, claimed, ending=True)
            await closing.end(session, claimed, "completed", attempt="same")

    async def set_(self, run: Run, **values: object) -> None:
        """Write columns."""
        async with self.bare.database.transaction() as session:
            await session.execute(sa.update(Run).where(col(Run.id) == run.id).values(**values))

    async def all(self) -> list[Run]:
        """The thread's runs in the order of their creation."""
        async with self.bare.database.transaction() as session:
            query = sa.select(Run).where(col(Run.thread_id) == self.thread_id).order_by(col(Run.position))
            return list((await session.execute(query)).scalars())

    async def active(self) -> str | None:
        """Who owns the thread."""
        async with self.bare.database.transaction() as session:
            return await threads.active_run(session, self.thread_id)

    async def said(self) -> list[str]:
        """What the user has said, in order."""
        async with self.bare.database.transaction() as session:
            query = sa.select(Message).where(col(Message.thread_id) == self.thread_id, col(Message.role) == "user")
            rows = (await session.execute(query.order_by(col(Message.position)))).scalars()
            return [row.content[0]["text"]["value"] for row in rows]
