"""Databases of earlier releases, with what is in them, come to this release's schema, and back."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio
import sqlalchemy as sa
from alembic import command
from alembic.util import CommandError
from pydantic import SecretStr
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import col

from orchestrator import db, messages, runs, threads
from orchestrator.foreign import Json
from orchestrator.migrate import configuration, migrate
from orchestrator.settings import Settings
from orchestrator.tables import File, Run
from orchestrator.wire import objects
from orchestrator.wire.requests import ListMessagesQuery, ListThreadsQuery
from tests.stack import Stack

NAME = "earlier"
STATUSES = ("queued", "in_progress", "requires_action", "cancelling", "completed", "failed")
ROWS = """
INSERT INTO projects (id, name, created_at) VALUES ('proj_x', 'earlier', 1)
-- next
INSERT INTO threads (id, project_id, created_at, tool_resources, metadata)
    SELECT 'thread_' || status, 'proj_x', 1, '{}', jsonb_build_object('of', status) FROM unnest(:statuses) status
-- next
INSERT INTO runs (id, thread_id, assistant_id, created_at, status, expires_at, model, tools, tool_resources, metadata,
        temperature, top_p, truncation_strategy, response_format, tool_choice, parallel_tool_calls, attempt, wake_at)
    SELECT 'run_' || status, 'thread_' || status, 'asst_x', 1, status, 9999999999, 'm', '[]', '{}', '{}',
        1, 1, '{"type": "auto", "last_messages": null}', '"auto"', '"auto"', true, 1, now()
    FROM unnest(:statuses) status
-- next
INSERT INTO messages (id, thread_id, created_at, role, status, content, attachments, metadata, run_id)
    SELECT 'msg_' || status, 'thread_' || status, 1, 'assistant', 'completed', '[]', '[]', '{}', 'run_' || status
    FROM unnest(:statuses) status
"""


@pytest_asyncio.fixture
async def earlier(stack: Stack) -> AsyncIterator[AsyncEngine]:
    """A database as the first release left it, with runs in every status; and the settings to reach it."""
    url = stack.environment["DATABASE_URL"]
    connection = await asyncpg.connect(url)
    await connection.execute(f"CREATE DATABASE {NAME}")
    engine = db.engine(settings(stack), patient=True)
    async with engine.begin() as session:
        await session.run_sync(to, "0001")
        for statement in ROWS.split("-- next"):
            query = sa.text(statement)
            if ":statuses" in statement:
                query = query.bindparams(sa.bindparam("statuses", list(STATUSES), sa.ARRAY(sa.String)))
            await session.execute(query)
    yield engine
    await engine.dispose()
    await connection.execute(f"DROP DATABASE {NAME} WITH (FORCE)")
    await connection.close()


def settings(stack: Stack) -> Settings:
    url = stack.environment["DATABASE_URL"].rpartition("/")[0]
    return Settings.model_validate({"DATABASE_URL": f"{url}/{NAME}", "REDIS_URL": stack.environment["REDIS_URL"]})


def to(connection: Connection, revision: str) -> None:
    """Up or down to this revision."""
    known = connection.dialect.has_table(connection, "alembic_version")
    move = command.downgrade if known else command.upgrade
    move(configuration(connection), revision)


async def owners(engine: AsyncEngine) -> dict[str, str]:
    """Threads and the runs that own them."""
    query = "SELECT thread_id, id FROM runs WHERE status IN ('queued', 'in_progress', 'requires_action', 'cancelling')"
    async with engine.begin() as connection:
        return {thread: run for thread, run in await connection.execute(sa.text(query))}  # noqa: C416


async def test_what_an_earlier_release_stored_is_all_there(stack: Stack, earlier: AsyncEngine) -> None:
    await migrate(settings(stack))

    async with db.Session(earlier) as session, session.begin():
        found, _ = await threads.list_(session, "proj_x", ListThreadsQuery.model_validate({"metadata[of]": "failed"}))
        assert [objects.thread(thread)["id"] for thread in found] == ["thread_failed"]
        assert found[0].on_active_run == "reject"
        for status in STATUSES:
            run = await runs.retrieve(session, "proj_x", f"thread_{status}", f"run_{status}")
            assert (objects.run(run)["status"], run.waiting, run.additional_messages) == (status, False, None)
            owner = await threads.active_run(session, run.thread_id)
            assert owner == (None if status in ("completed", "failed") else run.id)
            query = ListMessagesQuery(run_id=run.id)
            said, _ = await messages.list_(session, "proj_x", run.thread_id, query)
            assert [message.id for message in said] == [f"msg_{status}"]


async def test_going_back_cancels_what_waits_and_keeps_the_rest(stack: Stack, earlier: AsyncEngine) -> None:
    await migrate(settings(stack))
    async with db.Session(earlier) as session, session.begin():
        for status in ("queued", "completed"):
            waiting: dict[str, Json] = {"additional_messages": [{"role": "user"}], "waiting": True, "status": "queued"}
            of = await session.get_one(Run, f"run_{status}")
            values = of.model_dump(exclude={"position"}) | {"id": f"run_{status}_2", **waiting}
            session.add(Run(**values))
        session.add(File(project_id="proj_x", purpose="vision", filename="a.png", bytes=0))

    async with earlier.begin() as connection:
        await connection.run_sync(to, "0001")

    assert await owners(earlier) == {f"thread_{status}": f"run_{status}" for status in STATUSES[:4]}
    await migrate(settings(stack))  # and on again
    async with db.Session(earlier) as session, session.begin():
        ended = sa.select(col(Run.id)).where(col(Run.status) == "cancelled").order_by(col(Run.id))
        assert list((await session.execute(ended)).scalars()) == ["run_completed_2", "run_queued_2"]


async def test_a_schema_of_a_later_release_is_left_alone(stack: Stack, earlier: AsyncEngine) -> None:
    await migrate(settings(stack))
    async with earlier.begin() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))

    await migrate(settings(stack).model_copy(update={"api_key": SecretStr("sk-of-who-went-back")}))

    async with earlier.begin() as connection:
        assert await connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == "9999"
        assert await connection.scalar(sa.text("SELECT count(*) FROM api_keys")) == 1


async def test_a_schema_of_another_program_is_not_taken_for_a_later_one(stack: Stack, earlier: AsyncEngine) -> None:
    async with earlier.begin() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = 'ab12cd34ef56'"))

    with pytest.raises(CommandError, match="ab12cd34ef56"):
        await migrate(settings(stack))


async def test_processes_of_the_release_before_go_on_during_an_upgrade(stack: Stack, earlier: AsyncEngine) -> None:
    await migrate(settings(stack))

    async with earlier.begin() as connection:
        await connection.execute(sa.text("DELETE FROM threads"))
        for statement in ROWS.split("-- next")[1:]:
            query = sa.text(statement).bindparams(sa.bindparam("statuses", list(STATUSES), sa.ARRAY(sa.String)))
            await connection.execute(query)

    assert await owners(earlier) == {f"thread_{status}": f"run_{status}" for status in STATUSES[:4]}
