"""The statements of the plain case: they do what they may, all at once, and leave what is not plain as it is."""

import asyncio
import re

import asyncpg
import pytest
import sqlalchemy as sa
from sqlmodel import col

from orchestrator import ids, messages, threads
from orchestrator.bounds import Bounds
from orchestrator.places import MARGIN
from orchestrator.plain_lines import Calls, Outputs, PlainLines, Turn
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.tables import Run, RunStep, now
from tests.integration.plain_scene import DEADLINE, FREE, AtWork


@pytest.fixture
def at_work(bare: Resources, project_id: str) -> AtWork:
    return AtWork(bare, project_id)


async def test_the_lines_of_fifty_runs_are_one_statement_each(at_work: AtWork) -> None:
    claimed = await at_work.claimed(50)

    opened = [at_work.message(run) for run in claimed]
    assert None not in await asyncio.gather(*map(at_work.lines.message, opened))
    assert len(at_work.direct.statements) == 1
    lines = [await at_work.opened(run) for run in await at_work.claimed(50)]
    at_work.direct.statements.clear()

    assert await at_work.all(lines) == [line.run_id for line in lines]
    assert len(at_work.direct.statements) == 1
    assert set(await at_work.statuses(lines)) == {"completed"}


async def test_whatever_is_not_plain_is_left_alone_and_holds_up_nobody(at_work: AtWork) -> None:
    lines = await at_work.saying(10)
    cancelled, lost, taken, locked_thread, locked_run, locked_message, deleted, gone, *plain = lines
    await at_work.set_(cancelled, status="cancelling")
    await at_work.set_(lost, owner=None)
    await at_work.set_(taken, attempt=2)
    async with at_work.bare.database.transaction() as session:
        await messages.delete(session, at_work.project_id, deleted.thread_id, deleted.message_id)
        await threads.delete(session, at_work.project_id, gone.thread_id)

    async with (
        at_work.holding("SELECT 1 FROM threads WHERE id = $1 FOR NO KEY UPDATE", locked_thread.thread_id),
        at_work.holding("SELECT 1 FROM runs WHERE id = $1 FOR NO KEY UPDATE", locked_run.run_id),
        at_work.holding("SELECT 1 FROM messages WHERE id = $1 FOR NO KEY UPDATE", locked_message.message_id),
    ):
        assert await at_work.all(lines) == [line.run_id for line in plain]

    statuses = await at_work.statuses(lines)
    assert statuses == ["cancelling", *["in_progress"] * 6, None, *["completed"] * 2]
    for line in lines[:6]:
        assert [message.status for message in await at_work.said(line.run_id)] == ["in_progress"]


async def test_a_thread_that_is_being_deleted_holds_up_no_new_message(at_work: AtWork) -> None:
    going, plain = await at_work.claimed(2)

    async with at_work.holding("DELETE FROM threads WHERE id = $1", going.thread_id):
        asked = [at_work.message(run) for run in (going, plain)]
        written = await asyncio.wait_for(asyncio.gather(*map(at_work.lines.message, asked)), DEADLINE)

    assert [row is not None for row in written] == [False, True]


async def test_a_run_is_not_completed_over_the_heads_of_those_who_wait_for_its_thread(at_work: AtWork) -> None:
    first, second = await at_work.saying(2)
    waiting = await at_work.behind(first)

    assert await at_work.all([first, second]) == [second.run_id]
    assert waiting.waiting


@pytest.mark.parametrize(
    "bounds", [Bounds(MARGIN + 1, None, 100), Bounds(10**6, MARGIN + 1, 100)], ids=["of a project", "of all"]
)
async def test_places_that_are_scarce_are_freed_together_and_their_project_is_named_once(
    at_work: AtWork, bounds: Bounds
) -> None:
    lines = await at_work.saying(12)
    scarce = PlainLines(at_work.direct, bounds, at_work.freed.append)
    plenty, *few = lines

    assert await at_work.all([plenty]) == [plenty.run_id]
    assert at_work.freed == []
    at_work.direct.statements.clear()
    assert None not in await asyncio.gather(*map(scarce.completion, few))

    assert at_work.freed == [at_work.project_id]
    assert len(at_work.direct.statements) == 1
    assert set(await at_work.statuses(lines)) == {"completed"}


async def test_places_that_were_freed_by_what_nobody_answered_are_known_once_that_is(at_work: AtWork) -> None:
    (line,) = await at_work.saying()
    assert await at_work.all([line]) == [line.run_id]

    assert await at_work.lines.happened(line) is not None

    assert at_work.freed == [at_work.project_id]


async def test_a_creator_who_commits_while_a_statement_is_under_way_is_seen(
    at_work: AtWork, bare_settings: Settings
) -> None:
    """The statement has begun, and holds no lock yet, when somebody makes a run wait for the thread."""
    line, another = await at_work.saying(2)  # both lock what they find free: one thread for each
    connection = await asyncpg.connect(bare_settings.database_url.get_secret_value())
    definition = "SELECT pg_get_functiondef('assistantd_complete_runs_2'::regproc)"
    paused, times = re.subn(
        r"unnest\(thread_ids\) AS asked\(id\)",
        "(SELECT id FROM unnest(thread_ids) AS id, pg_advisory_xact_lock_shared(4713) OFFSET 0) AS asked",
        (await connection.fetchval(definition)).replace("complete_runs_2", "complete_runs_paused"),
    )
    assert times == 1
    await connection.execute(paused)
    naive = """WITH locked AS MATERIALIZED (
        SELECT threads.id FROM (SELECT id, pg_advisory_xact_lock_shared(4713) FROM threads WHERE id = $1) AS asked
        JOIN threads USING (id) FOR NO KEY UPDATE OF threads SKIP LOCKED
    ) SELECT EXISTS (SELECT FROM runs WHERE thread_id = locked.id AND waiting) FROM locked"""
    other = await asyncpg.connect(bare_settings.database_url.get_secret_value())

    await connection.execute("SELECT pg_advisory_lock(4713)")
    late = asyncio.create_task(at_work.direct.fetch(PAUSED, *([each] for each in line), 10**6, None))
    short = asyncio.create_task(other.fetchval(naive, another.thread_id))
    await _until_both_wait(at_work)
    for each in (line, another):
        await at_work.behind(each)
    await connection.execute("SELECT pg_advisory_unlock(4713)")
    rows = await asyncio.wait_for(late, DEADLINE)
    seen = await asyncio.wait_for(short, DEADLINE)
    await connection.execute("DROP FUNCTION assistantd_complete_runs_paused")
    await connection.close()
    await other.close()

    assert seen is False  # one statement is not enough
    assert rows == []
    assert await at_work.statuses([line]) == ["in_progress"]
    assert await at_work.all([line]) == []


PAUSED = f"SELECT * FROM assistantd_complete_runs_paused({', '.join(f'${n}' for n in range(1, 14))})"  # noqa: S608


async def _until_both_wait(at_work: AtWork) -> None:
    query = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4713 AND NOT granted")
    async with asyncio.timeout(DEADLINE), at_work.bare.database.engine.connect() as connection:
        while (await connection.execute(query)).scalar_one() < 2:
            await connection.rollback()
            await asyncio.sleep(0.01)


async def test_what_a_statement_has_done_is_known_once_it_is_done(at_work: AtWork) -> None:
    (run,) = await at_work.claimed()
    asked = at_work.message(run)

    async with at_work.holding("SELECT 1 FROM runs WHERE id = $1 FOR NO KEY UPDATE", run.id):
        wondering = asyncio.create_task(at_work.lines.happened(asked))
        await _until_somebody_waits(at_work)
    assert await asyncio.wait_for(wondering, DEADLINE) is None
    for _ in range(2):
        assert await at_work.lines.message(asked) is not None
    assert await at_work.lines.happened(asked) is not None
    assert len(await at_work.said(run.id)) == 1


async def _until_somebody_waits(at_work: AtWork) -> None:
    query = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%FROM runs%'")
    async with asyncio.timeout(DEADLINE), at_work.bare.database.engine.connect() as connection:
        while not (await connection.execute(query)).scalar_one():
            await connection.rollback()
            await asyncio.sleep(0.01)


async def test_a_statement_that_arrives_twice_or_late_changes_nothing(at_work: AtWork) -> None:
    (line,) = await at_work.saying()
    first, second = line, line._replace(content="[]", at=1)

    assert await at_work.all([first]) == [line.run_id]
    assert await at_work.all([second]) == []

    assert (await at_work.lines.happened(line))["completed_at"] is not None
    assert [message.content[0]["text"]["value"] for message in await at_work.said(line.run_id)] == ["Hi"]


@pytest.mark.parametrize("order", [1, -1])
async def test_a_line_of_an_attempt_that_is_over_is_not_written_beside_one_of_the_next(
    at_work: AtWork, order: int
) -> None:
    """The run was taken from this process and came back to it, before the former attempt knew."""
    (run,) = await at_work.claimed()
    stale, line = at_work.message(run), at_work.message(run)
    line = line._replace(attempt=run.attempt + 1)
    async with at_work.bare.database.transaction() as session:
        await session.execute(sa.update(Run).where(col(Run.id) == run.id).values(attempt=line.attempt))

    asked = [stale, line][::order]
    written = await asyncio.wait_for(asyncio.gather(*map(at_work.lines.message, asked)), DEADLINE)

    assert [row is not None for row in written] == [False, True][::order]
    assert [message.id for message in await at_work.said(run.id)] == [line.message_id]


async def test_outputs_that_arrive_late_do_not_take_back_what_was_added_since(at_work: AtWork) -> None:
    """Those of one call were sent, sent again because nobody had answered, and got on before the first came through."""
    (run,) = await at_work.claimed()
    texts = [f'{{"tool_calls":[{", ".join(given)}]}}' for given in (("null", "null"), ("1", "null"), ("1", "2"))]
    fence, step_id = (run.id, run.attempt, run.owner), ids.new("step_")
    assert await at_work.lines.calls(Calls(*fence, step_id, now(), None, None, None, None)) is not None
    assert await at_work.lines.turn(Turn(*fence, step_id, texts[0], FREE)) is not None
    one = Outputs(*fence, step_id, texts[0], texts[1], None)
    both = Outputs(*fence, step_id, texts[1], texts[2], now())

    assert await at_work.lines.happened(one) is None
    assert await at_work.lines.outputs(one) is not None
    assert await at_work.lines.happened(one) is not None
    assert await at_work.lines.outputs(one) is None
    assert await at_work.lines.outputs(both) is not None
    for late in (one, one._replace(before=texts[2]), both):
        assert await at_work.lines.outputs(late) is None

    async with at_work.bare.database.transaction() as session:
        step = (await session.execute(sa.select(RunStep).where(col(RunStep.id) == step_id))).scalar_one()
    assert (step.status, step.step_details) == ("completed", {"tool_calls": [1, 2]})


async def test_outputs_are_a_checkpoint(at_work: AtWork) -> None:
    (run,) = await at_work.claimed()
    fence, step_id = (run.id, run.attempt, run.owner), ids.new("step_")
    assert await at_work.lines.calls(Calls(*fence, step_id, now(), None, None, None, None)) is not None
    assert await at_work.lines.turn(Turn(*fence, step_id, "[]", FREE)) is not None
    async with at_work.bare.database.transaction() as session:
        await session.execute(sa.update(Run).where(col(Run.id) == run.id).values(losses=2))

    assert await at_work.lines.outputs(Outputs(*fence, step_id, "[]", "[1]", None)) is not None

    async with at_work.bare.database.transaction() as session:
        losses = (await session.execute(sa.select(col(Run.losses)).where(col(Run.id) == run.id))).scalar_one()
    assert losses == 0
