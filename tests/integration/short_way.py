"""A thread with an assistant, the short way to it as of one process or several, and what is stored in the end."""

from typing import Any, Self

import sqlalchemy as sa
from sqlmodel import col

from orchestrator import assistants, ids, lifecycle, threads
from orchestrator.db import Database
from orchestrator.direct import Direct
from orchestrator.execution import scribe
from orchestrator.execution.reply import OpenCall, Reply
from orchestrator.plain.verbs import Plain
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.tables import Message, Run, RunStep, Thread
from orchestrator.wire import objects
from orchestrator.wire.requests import CreateAssistant, CreateMessage, SubmitToolOutputs
from tests.integration.scene import Scene

Json = Any

HI = CreateMessage(role="user", content="Hi")
OWN = {"id", "position", "thread_id", "wake_at", "created_at", "expires_at", "completed_at"}
"""Columns that no two rows of a kind share, or that depend on the second."""
EPOCH = 1_700_000_000
"""When runs that ask for outputs were begun."""
ASSISTANT = {
    "model": "gpt-4o",
    "instructions": "Be kind.",
    "temperature": 0.5,
    "tools": [{"type": "function", "function": {"name": "z", "parameters": {"z": 1, "a": {"y": None}}}}],
    "metadata": {"of": "the assistant"},
}


def alike(one: dict[str, Json], other: dict[str, Json]) -> None:
    """Wire objects that differ in nothing but ids and times."""
    assert list(one) == list(other)
    assert {name: one[name] for name in one if name not in OWN} == {n: other[n] for n in other if n not in OWN}


class Refused(Direct):
    """Postgres as it refuses every statement."""

    def __init__(self, settings: Settings) -> None:
        url = settings.database_url.get_secret_value()
        super().__init__(url, {}, settings.database_timeout, settings.database_queue)

    async def fetch(self, statement: str, *_: Json) -> list[Json]:
        """As everybody's, of something that is not there."""
        return await super().fetch("SELECT nothing FROM nowhere", statement)


def outputs(*calls: str, said: str = "Output") -> SubmitToolOutputs:
    """Outputs of these calls, as a client gives them."""
    given = [{"tool_call_id": call, "output": f"{said} of {call}"} for call in calls]
    return SubmitToolOutputs.model_validate({"tool_outputs": given})


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

    async def asking(self, *calls: str, run: Run | None = None, answered: tuple[str, ...] = ()) -> Run:
        """A run, on a new thread unless it is given, that waits for the outputs of calls of these ids. The worker has
        given those of `answered`, which are the same turn's.
        """
        if run is None:
            run = await self.on(await self.another()).create()
        claimed = await self.claim(run)
        reply = Reply(calls=[OpenCall(id_, "look_up", ['{"q":', ' "ä"}']) for id_ in (*answered, *calls)])
        async with self.bare.database.transaction() as session:
            _, step = await scribe.open_calls(session, claimed, reply, ids.new("step_"))
            step = await scribe.save_step(session, step, **scribe.turn(reply))
            known = scribe.with_outputs(step, dict.fromkeys(answered, "The worker's."))
            step = await scribe.save_outputs(session, claimed, step, known)
            left = [call for call in step.step_details["tool_calls"] if call["id"] in calls]
            action = objects.required_action(left)
            values = {"required_action": action, "started_at": EPOCH}
            waits = await lifecycle.move(session, claimed, "requires_action", attempt="same", tell=False, **values)
        assert waits is not None
        return waits

    def on(self, thread_id: str) -> Scene:
        """Another thread of the project."""
        return Scene(self.bare, self.project_id, thread_id, self.assistant_id)

    async def stored(self, thread_id: str) -> dict[str, list[dict[str, Json]]]:
        """All that belongs to a thread, but for what no two rows share."""
        return {
            "thread": await self._rows(Thread, col(Thread.id) == thread_id),
            "messages": await self._rows(Message, col(Message.thread_id) == thread_id),
            "runs": await self._rows(Run, col(Run.thread_id) == thread_id),
            "steps": [
                {name: value for name, value in row.items() if name != "run_id"}
                for row in await self._rows(RunStep, col(RunStep.thread_id) == thread_id)
            ],
        }

    async def _rows(self, table: type[Any], condition: Json) -> list[dict[str, Json]]:
        columns = table.__table__.c
        query = sa.select(*columns).where(condition).order_by(columns.position)
        async with self.bare.database.engine.connect() as connection:
            found = (await connection.execute(query)).mappings()
            return [{name: value for name, value in row.items() if name not in OWN} for row in found]
