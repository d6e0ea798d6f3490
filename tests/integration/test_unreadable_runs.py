"""Runs of which a column holds what no process can read: whoever comes across one fails it, and it blocks nothing."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
import sqlalchemy as sa
from orjson import JSONDecodeError
from sqlmodel import col
from structlog.testing import capture_logs

from orchestrator import assistants, housekeeping, runs
from orchestrator.execution.claims import UNREADABLE
from orchestrator.plain.verbs import Made, Plain
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.tables import Run, now
from orchestrator.wire.requests import CreateAssistant, CreateRun, CreateThreadAndRun
from tests.integration.test_claims import Worker, found, set_, worker
from tests.integration.test_past import run_after, said

__all__ = ["worker"]

NO_CHARACTER = r'"\ud800"'
"""Postgres takes it for JSON; Python's parsers do not."""
COLUMNS = {"tools": "tools", "tool_choice": "tool_choice", "metadata": "metadata_", "last_error": "last_error"}
"""Some that must hold something, and one that need not; and their attributes."""


async def broken(bare: Resources, project_id: str, column: str = "tools", **values: Any) -> Run:
    """A run that cannot be read, on a thread of its own."""
    run = await run_after(bare, project_id, said("Hi"))
    await set_(bare, run, model=run.model, **values)
    assert bare.database.direct is not None
    holds = "jsonb_build_object('a', 10::numeric ^ 400)" if column == "metadata" else f"'{NO_CHARACTER}'"
    await bare.database.direct.fetch(f"UPDATE runs SET {column} = {holds} WHERE id = $1", run.id)  # noqa: S608
    return run


async def is_free(bare: Resources, run: Run, project_id: str) -> bool:
    """Whether another run can be made on its thread."""
    async with bare.database.transaction() as session:
        body = CreateRun(assistant_id=run.assistant_id)
        return (await runs.create(session, project_id, run.thread_id, body, lifetime=600)).status == "queued"


def only(lines: list[MutableMapping[str, Any]], event: str) -> MutableMapping[str, Any]:
    """The one line of this event."""
    (line,) = (line for line in lines if line["event"] == event)
    return line


@pytest.mark.parametrize("column", COLUMNS)
async def test_it_fails_when_it_is_claimed_together_with_others(
    bare: Resources, project_id: str, worker: Worker, column: str
) -> None:
    run, other = await broken(bare, project_id, column), await run_after(bare, project_id, said("Hi"))

    with capture_logs() as lines:
        journals = await worker.take(run, other)

    assert {"run_id": run.id, "columns": [COLUMNS[column]]}.items() <= only(lines, "run_mended").items()
    assert [journal is not None for journal in journals] == [False, True]
    ended = await found(bare, run)
    assert (ended.status, ended.last_error, ended.attempt) == ("failed", UNREADABLE, 1)
    assert worker.told.names(run.id) == [("1-1", "thread.run.in_progress"), ("1-2", "thread.run.failed")]
    assert await is_free(bare, run, project_id)


@pytest.mark.parametrize("together", [True, False])
async def test_it_fails_when_it_is_taken_over(
    bare: Resources, bare_settings: Settings, project_id: str, together: bool
) -> None:
    run = await broken(bare, project_id, status="in_progress", attempt=1, losses=1)
    run.attempt = 1

    with capture_logs() as lines:
        assert await Worker(bare, bare_settings, together=together).take(run) == [None]

    assert only(lines, "run_mended")
    ended = await found(bare, run)
    assert (ended.status, ended.last_error) == ("failed", UNREADABLE)
    assert await is_free(bare, run, project_id)


async def test_it_is_ended_when_its_time_is_over(bare: Resources, project_id: str) -> None:
    run = await broken(bare, project_id, expires_at=now() - 60)

    with capture_logs() as lines:
        for _ in range(2):  # one finds that it cannot be read
            await housekeeping.sweep(bare.database)

    assert only(lines, "run_mended")
    assert (await found(bare, run)).status == "expired"
    assert await is_free(bare, run, project_id)


async def test_what_can_be_read_of_it_stays(bare: Resources, project_id: str, worker: Worker) -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    run = await broken(bare, project_id, "tool_choice", tools=tools, metadata_={"a": "b"})

    with capture_logs():
        await worker.take(run)

    async with bare.database.transaction() as session:
        kept = (await session.execute(sa.select(Run).where(col(Run.id) == run.id))).scalar_one()
    assert (kept.tools, kept.metadata_, kept.tool_choice) == (tools, {"a": "b"}, "auto")


async def test_an_assistant_that_cannot_be_read_is_no_trouble_for_those_who_create_runs_at_the_same_time(
    bare: Resources, project_id: str
) -> None:
    assert bare.database.direct is not None
    async with bare.database.transaction() as session:
        made = [await assistants.create(session, project_id, CreateAssistant(model="gpt-4o")) for _ in range(2)]
    good, bad = (assistant.id for assistant in made)
    await bare.database.direct.fetch(f"UPDATE assistants SET tools = '[{NO_CHARACTER}]' WHERE id = $1", bad)  # noqa: S608
    plain = Plain(bare.database, bare.database.direct, 600)

    created = [
        plain.create_thread_and_run(project_id, CreateThreadAndRun(assistant_id=id_)) for id_ in (good, bad, good)
    ]
    found = await asyncio.gather(*created, return_exceptions=True)

    assert [type(each) for each in found] == [Made, JSONDecodeError, Made]
