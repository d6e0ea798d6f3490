"""Projects under bounds in the bare database, and what clients and workers do in them: for tests of places."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
import sqlalchemy as sa
from sqlmodel import col

from orchestrator import assistants, closing, housekeeping, lifecycle, projects, runs, threads
from orchestrator.bounds import Bounds
from orchestrator.db import Database, Session
from orchestrator.events.frames import Track
from orchestrator.resources import Resources
from orchestrator.tables import HOLDS_PLACE, LACKS_PLACE, Project, Run, Thread, now
from orchestrator.wire.requests import CreateAssistant, CreateThreadAndRun
from tests.integration.scene import Scene


class Noting(Database):
    """A database that notes whom its transactions wake."""

    def __init__(self, bare: Resources, bounds: Bounds) -> None:
        super().__init__(bare.database.engine, bare.database.publisher, bounds=bounds)
        self.woken: asyncio.Queue[str] = asyncio.Queue()
        self.order: list[str] = []

    @asynccontextmanager
    async def transaction(self, track: Track | None = None) -> AsyncIterator[Session]:
        """As everybody's."""
        async with super().transaction(track) as session:
            yield session
        for _, (run_id, _attempt) in session.wakeups:
            self.order.append(str(run_id))
            self.woken.put_nowait(str(run_id))


class House:
    """Projects under bounds, and what clients and workers do in them."""

    def __init__(self, bare: Resources, project_id: str, assistant_id: str, bounds: Bounds) -> None:
        self.database = Noting(bare, bounds)
        self.bare = dataclasses.replace(bare, database=self.database)
        self.project_id = project_id
        self.assistant_id = assistant_id

    @property
    def order(self) -> list[str]:
        """The runs in the order in which they were woken."""
        return self.database.order

    async def other(self, name: str) -> "House":
        """Another project of the same house."""
        async with self.database.transaction() as session:
            await projects.register(session, f"sk-asst-places-{name}-0123456789", name)
            query = sa.select(col(Project.id)).where(col(Project.name) == name)
            project_id = (await session.execute(query)).scalar_one()
            assistant = await assistants.create(session, project_id, CreateAssistant(model="gpt-4o"))
        house = House(self.bare, project_id, assistant.id, self.database.bounds)
        house.database, house.bare = self.database, self.bare
        return house

    async def scene(self) -> Scene:
        """An empty thread."""
        async with self.database.transaction() as session:
            thread = await threads.create(session, self.project_id, None)
        return Scene(self.bare, self.project_id, thread.id, self.assistant_id)

    async def create(self, said: str = "x") -> Run:
        """A run on a thread of its own."""
        body = {"assistant_id": self.assistant_id, "thread": {"messages": [{"role": "user", "content": said}]}}
        async with self.database.transaction() as session:
            request = CreateThreadAndRun.model_validate(body)
            return await runs.create_with_thread(session, self.project_id, request, lifetime=600)

    async def claim(self, run: Run, owner: str = "1") -> Run:
        """Take a run as a worker does."""
        async with self.database.transaction() as session:
            claimed = await lifecycle.claim(session, run.id, owner, 60)
        assert claimed is not None
        return claimed[0]

    async def end(self, run: Run, ending: str = "completed") -> None:
        """End a claimed run as its worker does."""
        error = {"last_error": {"code": "server_error", "message": "x"}} if ending == "failed" else {}
        async with self.database.transaction() as session:
            await lifecycle.hold(session, run, ending=True)
            await closing.end(session, run, ending, attempt="same", **error)  # type: ignore[arg-type]

    async def cancel(self, run: Run) -> None:
        """Cancel a run as its client does."""
        async with self.database.transaction() as session:
            await runs.cancel(session, self.project_id, run.thread_id, run.id)

    async def set_(self, run: Run, **values: object) -> None:
        """Write columns."""
        async with self.database.transaction() as session:
            await session.execute(sa.update(Run).where(col(Run.id) == run.id).values(**values))

    async def with_place(self) -> list[str]:
        """The runs that hold a place, oldest first."""
        return await self._where(HOLDS_PLACE)

    async def without(self) -> list[str]:
        """The runs that wait for one, oldest first."""
        return await self._where(LACKS_PLACE)

    async def statuses(self) -> dict[str, str]:
        """All runs, in the order of their creation."""
        query = sa.select(col(Run.id), col(Run.status)).order_by(col(Run.position))
        async with self.database.transaction() as session:
            return {row.id: row.status for row in await session.execute(query)}

    async def sweep(self) -> housekeeping.Swept:
        """Keep house."""
        return await housekeeping.sweep(self.database)

    async def _where(self, condition: sa.TextClause) -> list[str]:
        async with self.database.transaction() as session:
            query = sa.select(col(Run.id)).where(condition).order_by(col(Run.position))
            return list((await session.execute(query)).scalars())


def ids(made: Sequence[Run]) -> list[str]:
    return [run.id for run in made]


async def crowd(house: House, many: int) -> None:
    """So many runs without a place, put there as they are."""
    async with house.database.transaction() as session:
        for _ in range(many):
            thread = Thread(project_id=house.project_id)
            session.add(thread)
            await session.flush()
            session.add(
                Run(
                    thread_id=thread.id,
                    project_id=house.project_id,
                    assistant_id=house.assistant_id,
                    model="gpt-4o",
                    expires_at=now() + 600,
                    placed=False,
                )
            )


async def belongings(house: House) -> list[str]:
    """Whose the places are."""
    async with house.database.transaction() as session:
        return list((await session.execute(sa.select(col(Run.project_id)).where(HOLDS_PLACE))).scalars())


@pytest_asyncio.fixture(autouse=True)
async def quiet(bare: Resources) -> AsyncIterator[None]:
    """No run of another test is left, and none is left to others."""
    async with bare.database.transaction() as session:
        await session.execute(sa.delete(Thread))
    yield
    async with bare.database.transaction() as session:
        await session.execute(sa.delete(Thread))


@pytest_asyncio.fixture
async def assistant_id(bare: Resources, project_id: str) -> str:
    """An assistant of the project."""
    async with bare.database.transaction() as session:
        return (await assistants.create(session, project_id, CreateAssistant(model="gpt-4o"))).id


@pytest.fixture
def narrow(bare: Resources, project_id: str, assistant_id: str) -> House:
    """Two places for each project."""
    return House(bare, project_id, assistant_id, Bounds(project=2))
