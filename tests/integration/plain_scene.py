"""Runs at work, and the lines that their worker would write of them: for tests of the statements of the plain case."""

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any

import sqlalchemy as sa
from sqlmodel import col

from orchestrator import assistants, ids, lifecycle, plain_lines, runs, threads
from orchestrator.direct import Direct
from orchestrator.foreign import Json
from orchestrator.plain_lines import Completion, PlainLines
from orchestrator.resources import Resources
from orchestrator.tables import Message, Run, now
from orchestrator.wire.requests import CreateAssistant, CreateRun
from tests.integration.scene import Scene

DEADLINE = 60.0
FREE = '{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}'


class Counted(Direct):
    """The statements of another, counted."""

    def __init__(self, direct: Direct) -> None:
        self._direct = direct
        self.statements: list[str] = []

    async def fetch(self, statement: str, *arguments: Json) -> list[Json]:
        self.statements.append(statement)
        return await self._direct.fetch(statement, *arguments)


class AtWork:
    """Runs that a worker named "1" has claimed, each on a thread of its own."""

    def __init__(self, bare: Resources, project_id: str) -> None:
        assert bare.database.direct is not None
        self.bare = bare
        self.project_id = project_id
        self.direct = Counted(bare.database.direct)
        self.freed: list[str] = []
        self.lines = PlainLines(self.direct, bare.database.bounds, self.freed.append)
        self._assistants: dict[str, str] = {}

    async def claimed(self, count: int = 1, **fields: Any) -> list[Run]:
        """So many of them."""
        made = []
        async with self.bare.database.transaction() as session:
            assistant = await assistants.create(session, self.project_id, CreateAssistant(model="gpt-4o"))
            body = CreateRun.model_validate({"assistant_id": assistant.id, **fields})
            for _ in range(count):
                thread = await threads.create(session, self.project_id, None)
                made.append(await runs.create(session, self.project_id, thread.id, body, lifetime=600))
                self._assistants[thread.id] = assistant.id
        return [await self._claim(run) for run in made]

    async def _claim(self, run: Run) -> Run:
        async with self.bare.database.transaction() as session:
            claimed = await lifecycle.claim(session, run.id, "1", 60)
        assert claimed is not None
        return claimed.run

    async def saying(self, count: int = 1) -> list[Completion]:
        """So many that have opened a message, and the line that would complete each."""
        return [await self.opened(run) for run in await self.claimed(count)]

    async def opened(self, run: Run) -> Completion:
        """Open a message of the run; returns the line that would complete it."""
        asked = self.message(run)
        assert await self.lines.message(asked) is not None
        texts = '[{"type":"text","text":{"value":"Hi","annotations":[]}}]', asked.step_id, FREE, FREE
        return Completion(run.id, run.attempt, run.owner, run.thread_id, asked.message_id, *texts, now(), None)

    def message(self, run: Run) -> plain_lines.Message:
        """The line that would open a message of the run."""
        return plain_lines.Message(run.id, run.attempt, run.owner, ids.new("msg_"), ids.new("step_"), now())

    async def behind(self, line: Completion) -> Run:
        """Have a run wait for the thread, as a client may."""
        scene = Scene(self.bare, self.project_id, line.thread_id, self._assistants[line.thread_id])
        return await scene.create("enqueue")

    async def all(self, lines: list[Completion]) -> list[str]:
        """Complete them at once; returns the runs that were."""
        written = await asyncio.wait_for(asyncio.gather(*map(self.lines.completion, lines)), DEADLINE)
        return [line.run_id for line, row in zip(lines, written, strict=True) if row is not None]

    async def statuses(self, lines: list[Completion]) -> list[str | None]:
        """How the runs stand."""
        async with self.bare.database.transaction() as session:
            rows = await session.execute(sa.select(col(Run.id), col(Run.status)))
            known: dict[str, str] = {row.id: row.status for row in rows}
        return [known.get(line.run_id) for line in lines]

    def holding(self, query: str, *arguments: str) -> AbstractAsyncContextManager[Any]:
        """Somebody who holds the rows of a query in the middle of a transaction that says nothing more."""
        return _Holding(self.bare, query, arguments)

    async def set_(self, line: Completion, **values: object) -> None:
        """Write columns of a run."""
        async with self.bare.database.transaction() as session:
            await session.execute(sa.update(Run).where(col(Run.id) == line.run_id).values(**values))

    async def said(self, run_id: str) -> list[Message]:
        """The messages of a run."""
        async with self.bare.database.transaction() as session:
            return list((await session.execute(sa.select(Message).where(col(Message.run_id) == run_id))).scalars())


class _Holding:
    def __init__(self, bare: Resources, query: str, arguments: tuple[str, ...]) -> None:
        self._connection = bare.database.engine.connect()
        self._query = query
        self._arguments = arguments

    async def __aenter__(self) -> None:
        await self._connection.start()
        await self._connection.exec_driver_sql(self._query, self._arguments)

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()
