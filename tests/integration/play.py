"""One run in the bare database, and what clients, workers and housekeeping do to it: for tests of its attempts."""

import asyncio
from typing import Any

import sqlalchemy as sa
from sqlmodel import col

from orchestrator import assistants, attempts, housekeeping, messages, presence, runs, threads
from orchestrator.execution.runner import Runner
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.tables import Run, RunAttempt
from orchestrator.wire.requests import CreateAssistant, CreateMessage, CreateRun
from tests.fakes.model_control import RemoteModelServer

DEADLINE = 60.0


class Play:
    """A run in the bare database, and what happens to it."""

    def __init__(self, bare: Resources, settings: Settings, project_id: str) -> None:
        self.bare = bare
        self.settings = settings
        self.project_id = project_id
        self.owner = presence.new_owner()
        self.runner = Runner(bare.database, bare.model, self.owner, settings)
        self.run_id = ""
        self.thread_id = ""

    async def begin(self, *, lifetime: int = 600, **fields: Any) -> "Play":
        """Create the run on a thread of its own."""
        async with self.bare.database.transaction() as session:
            assistant = await assistants.create(session, self.project_id, CreateAssistant(model="gpt-4o"))
            thread = await threads.create(session, self.project_id, None)
            await messages.create(session, self.project_id, thread.id, CreateMessage(role="user", content="Hi"))
            body = CreateRun.model_validate({"assistant_id": assistant.id, **fields})
            run = await runs.create(session, self.project_id, thread.id, body, lifetime=lifetime)
        self.run_id, self.thread_id = run.id, thread.id
        return self

    async def carry(self) -> None:
        """Have it carried to rest."""
        await asyncio.wait_for(self.runner.run(self.run_id), DEADLINE)

    async def cut(self, model: RemoteModelServer) -> None:
        """Have a worker carry it that stops in the middle."""
        running = asyncio.create_task(self.runner.run(self.run_id))
        await asyncio.to_thread(model.wait_for, lambda state: state["requests"] == 1)
        running.cancel()
        await asyncio.wait([running])

    async def left_by(self, owner: str, **values: Any) -> None:
        """Have it claimed by a worker that nothing more is heard of."""
        claimed = await Runner(self.bare.database, self.bare.model, owner, self.settings)._claim(self.run_id, None)
        assert claimed is not None
        await self.set_(**values)

    async def set_(self, **values: Any) -> None:
        """Write columns of the run."""
        if values:
            async with self.bare.database.transaction() as session:
                await session.execute(sa.update(Run).where(col(Run.id) == self.run_id).values(**values))

    async def row(self) -> Run:
        """As it stands."""
        async with self.bare.database.transaction() as session:
            return (await session.execute(sa.select(Run).where(col(Run.id) == self.run_id))).scalar_one()

    async def told(self) -> list[tuple[int, str | None]]:
        """The attempts, with how they ended."""
        return [(attempt.attempt, attempt.outcome) for attempt in await self.attempts()]

    async def attempts(self) -> list[RunAttempt]:
        """The attempts."""
        async with self.bare.database.transaction() as session:
            return list(await attempts.of(session, self.run_id))

    async def sweep(self, most: int = 8) -> housekeeping.Swept:
        """Keep house once."""
        return await housekeeping.sweep(self.bare.database, most)
