"""The life of a run against the real database: who may move it, who may write, and what housekeeping does."""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
import pytest_asyncio
import sqlalchemy as sa
from alembic import command
from sqlmodel import col

from orchestrator import assistants, closing, housekeeping, lifecycle, messages, migrate, presence, runs, threads
from orchestrator.db import Session
from orchestrator.errors import InvalidRequest, LeaseLost, RunCancelled
from orchestrator.execution.runner import Runner
from orchestrator.housekeeping import Swept
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.tables import Run, RunStep, Thread, now
from orchestrator.wire.requests import CreateAssistant, CreateMessage, CreateRun, SubmitToolOutputs

LEASE = 60.0


@pytest_asyncio.fixture(autouse=True)
async def quiet(bare: Resources) -> None:
    """No run of another test is left for housekeeping to find."""
    async with bare.database.transaction() as session:
        await session.execute(sa.delete(Thread))


async def queued(bare: Resources, project_id: str, *, lifetime: int = 600) -> Run:
    """A queued run on a thread of its own."""
    async with bare.database.transaction() as session:
        assistant = await assistants.create(session, project_id, CreateAssistant(model="gpt-4o"))
        thread = await threads.create(session, project_id, None)
        body = CreateRun(assistant_id=assistant.id)
        return await runs.create(session, project_id, thread.id, body, lifetime=lifetime)


async def claimed(bare: Resources, run_id: str, owner: str = "1") -> Run | None:
    async with bare.database.transaction() as session:
        found = await lifecycle.claim(session, run_id, owner, LEASE)
        return found[0] if found else None


async def found(bare: Resources, run_id: str) -> Run:
    async with bare.database.transaction() as session:
        return (await session.execute(sa.select(Run).where(col(Run.id) == run_id))).scalar_one()


async def set_(bare: Resources, run_id: str, **values: object) -> None:
    async with bare.database.transaction() as session:
        await session.execute(sa.update(Run).where(col(Run.id) == run_id).values(**values))


async def test_tables_and_migrations_agree(bare: Resources) -> None:
    async with bare.database.engine.connect() as connection:
        await connection.run_sync(lambda plain: command.check(migrate.configuration(plain)))


async def test_of_many_claims_exactly_one_wins(bare: Resources, project_id: str) -> None:
    run = await queued(bare, project_id)

    won = await asyncio.gather(*(claimed(bare, run.id, str(number)) for number in range(1, 21)))

    assert len([claim for claim in won if claim]) == 1
    assert (await found(bare, run.id)).attempt == 1


async def test_of_many_runs_on_one_thread_exactly_one_is_created(bare: Resources, project_id: str) -> None:
    first = await queued(bare, project_id)
    async with bare.database.transaction() as session:
        await closing.end(session, first, "failed", attempt="next", last_error={"code": "server_error", "message": "x"})

    async def create() -> str:
        async with bare.database.transaction() as session:
            body = CreateRun(assistant_id=first.assistant_id)
            return (await runs.create(session, project_id, first.thread_id, body, lifetime=600)).id

    results = await asyncio.gather(*(create() for _ in range(20)), return_exceptions=True)

    assert len([result for result in results if isinstance(result, str)]) == 1
    assert len([result for result in results if isinstance(result, InvalidRequest)]) == 19


async def test_a_worker_that_lost_its_run_writes_nothing_more(bare: Resources, project_id: str) -> None:
    run = await queued(bare, project_id)
    stale = await claimed(bare, run.id)
    assert stale is not None
    await set_(bare, run.id, owner=None)
    await claimed(bare, run.id, "2")

    async with bare.database.transaction() as session:
        with pytest.raises(LeaseLost):
            await lifecycle.hold(session, stale)
        assert await lifecycle.move(session, stale, "completed", attempt="same") is None
    assert (await found(bare, run.id)).status == "in_progress"


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "expired", "incomplete"])
async def test_a_run_that_is_over_moves_no_more(bare: Resources, project_id: str, status: str) -> None:
    run = await queued(bare, project_id)
    await set_(bare, run.id, status=status)

    async with bare.database.transaction() as session:
        for target in lifecycle.FROM:
            assert await lifecycle.move(session, run, target, attempt="next") is None


async def test_a_cancel_is_seen_at_the_next_line_even_if_its_signal_is_lost(bare: Resources, project_id: str) -> None:
    run = await queued(bare, project_id)
    mine = await claimed(bare, run.id)
    assert mine is not None
    await set_(bare, run.id, status="cancelling")

    async with bare.database.transaction() as session:
        with pytest.raises(RunCancelled):
            await lifecycle.hold(session, mine)


async def test_the_runs_of_a_dead_worker_are_handed_on_at_once(
    bare: Resources, bare_settings: Settings, project_id: str
) -> None:
    run = await queued(bare, project_id)
    owner = presence.new_owner()
    async with presence.present(
        owner, Runner(bare.database, bare.model, owner, bare_settings), bare.database, bare_settings
    ):
        await claimed(bare, run.id, owner)
        assert (await housekeeping.sweep(bare.database)).orphaned == 0

    swept = await housekeeping.sweep(bare.database)

    assert (swept.orphaned, swept.woken) == (1, 1)
    taken = await claimed(bare, run.id, "2")
    assert taken is not None
    assert (taken.status, taken.attempt, taken.started_at) == ("in_progress", 2, (await found(bare, run.id)).started_at)


async def test_the_runs_of_a_silent_worker_are_handed_on_when_the_lease_is_over(
    bare: Resources, bare_settings: Settings, project_id: str
) -> None:
    run = await queued(bare, project_id)
    owner = presence.new_owner()
    async with presence.present(
        owner, Runner(bare.database, bare.model, owner, bare_settings), bare.database, bare_settings
    ):
        await claimed(bare, run.id, owner)
        await set_(bare, run.id, lease_until=sa.func.now() - sa.text("interval '1 second'"))

        assert (await housekeeping.sweep(bare.database)).orphaned == 1


async def test_a_heartbeat_renews_what_the_worker_carries(bare: Resources, project_id: str) -> None:
    run = await queued(bare, project_id)
    await claimed(bare, run.id, "77")
    before = (await found(bare, run.id)).lease_until

    async with bare.database.transaction() as session:
        await lifecycle.renew(session, "77", [run.id], LEASE * 2)

    after = (await found(bare, run.id)).lease_until
    assert before is not None
    assert after is not None
    assert after > before


async def test_a_heartbeat_leaves_a_fresh_lease_as_it_is_and_sees_whose_the_run_is(
    bare: Resources, project_id: str
) -> None:
    run = await queued(bare, project_id)
    await claimed(bare, run.id, "77")
    before = (await found(bare, run.id)).lease_until

    async with bare.database.transaction() as session:
        owned = await lifecycle.renew(session, "77", [run.id], 86400.0)
        later = (await session.get_one(Run, run.id)).lease_until
    async with bare.database.transaction() as session:
        again = await lifecycle.renew(session, "77", [run.id], 86400.0)
        others = await lifecycle.renew(session, "78", [run.id], 86400.0)

    assert owned == again == {run.id: (1, "in_progress")}
    assert others == {}
    assert before is not None
    assert later is not None
    assert later > before
    assert (await found(bare, run.id)).lease_until == later


async def test_a_heartbeat_sets_a_lease_right_that_lies_too_far_ahead(bare: Resources, project_id: str) -> None:
    run = await queued(bare, project_id)
    await claimed(bare, run.id, "77")
    await set_(bare, run.id, lease_until=sa.func.now() + sa.text("interval '1 day'"))
    far = (await found(bare, run.id)).lease_until

    async with bare.database.transaction() as session:
        await lifecycle.renew(session, "77", [run.id], LEASE)

    near = (await found(bare, run.id)).lease_until
    assert near is not None
    assert far is not None
    assert near < far


async def test_a_lost_wake_up_is_sent_again_once(bare: Resources, project_id: str) -> None:
    run = await queued(bare, project_id)
    await set_(bare, run.id, wake_at=sa.func.now())

    first, second = await housekeeping.sweep(bare.database), await housekeeping.sweep(bare.database)

    assert (first.woken, second.woken) == (1, 0)


@pytest.mark.parametrize("status", ["queued", "in_progress", "requires_action", "cancelling"])
async def test_an_overdue_run_expires_from_every_active_status(bare: Resources, project_id: str, status: str) -> None:
    run = await queued(bare, project_id)
    step = RunStep(run_id=run.id, thread_id=run.thread_id, assistant_id=run.assistant_id, type="tool_calls")
    async with bare.database.transaction() as session:
        session.add(step)
    overdue = now() - housekeeping.GRACE - 1
    await set_(bare, run.id, status=status, expires_at=overdue, owner="1" if status == "cancelling" else None)

    await housekeeping.sweep(bare.database)

    async with bare.database.transaction() as session:
        closed = (await session.execute(sa.select(RunStep).where(col(RunStep.id) == step.id))).scalar_one()
    assert (await found(bare, run.id)).status in {"expired", "cancelled"}
    assert closed.status in {"expired", "cancelled"}


async def test_a_run_whose_living_worker_does_not_hear_its_cancel_expires_all_the_same(
    bare: Resources, bare_settings: Settings, project_id: str
) -> None:
    run = await queued(bare, project_id)
    owner = presence.new_owner()
    runner = Runner(bare.database, bare.model, owner, bare_settings)
    async with presence.present(owner, runner, bare.database, bare_settings):
        await claimed(bare, run.id, owner)
        await set_(bare, run.id, status="cancelling", expires_at=now() - housekeeping.GRACE - 1)

        swept = await housekeeping.sweep(bare.database)

    assert (swept.cancelled, swept.expired) == (0, 1)
    assert (await found(bare, run.id)).status == "expired"


async def test_what_was_cancelling_with_nobody_at_work_is_finished(bare: Resources, project_id: str) -> None:
    run = await queued(bare, project_id)
    await set_(bare, run.id, status="cancelling", owner="424242")

    await housekeeping.sweep(bare.database)

    ended = await found(bare, run.id)
    assert (ended.status, ended.owner) == ("cancelled", None)
    assert ended.cancelled_at is not None


async def test_cases_17_18_36_and_40_a_run_that_is_being_cancelled_still_owns_its_thread(
    bare: Resources, project_id: str
) -> None:
    run = await queued(bare, project_id)
    await set_(bare, run.id, status="cancelling", owner="424242")
    said = CreateMessage(role="user", content="x")
    outputs = SubmitToolOutputs(tool_outputs=[])
    of_run = (project_id, run.thread_id, run.id)
    refused: dict[str, Callable[[Session], Awaitable[object]]] = {
        f"Can't add messages to {run.thread_id} while a run {run.id} is active.": lambda session: messages.create(
            session, project_id, run.thread_id, said
        ),
        f"Thread {run.thread_id} already has an active run {run.id}.": lambda session: runs.create(
            session, project_id, run.thread_id, CreateRun(assistant_id=run.assistant_id), lifetime=600
        ),
        'Runs in status "cancelling" do not accept tool outputs.': lambda session: runs.submit_tool_outputs(
            session, *of_run, outputs
        ),
        "Cannot cancel run with status 'cancelling'.": lambda session: runs.cancel(session, *of_run),
    }

    for text, verb in refused.items():
        with pytest.raises(InvalidRequest) as caught:
            async with bare.database.transaction() as session:
                await verb(session)
        assert caught.value.message == text
    assert (await found(bare, run.id)).status == "cancelling"


async def test_only_one_process_keeps_house_at_a_time(
    bare: Resources, bare_settings: Settings, project_id: str
) -> None:
    run = await queued(bare, project_id)
    await set_(bare, run.id, wake_at=sa.func.now())
    other = await asyncpg.connect(bare_settings.database_url.get_secret_value())
    async with other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock($1, 0)", presence.LOCK_CLASS)

        assert await housekeeping.sweep(bare.database) == Swept()
    await other.close()

    assert (await housekeeping.sweep(bare.database)).woken == 1


async def test_a_second_wake_up_of_the_same_run_does_nothing(
    bare: Resources, bare_settings: Settings, project_id: str
) -> None:
    run = await queued(bare, project_id)
    runner = Runner(bare.database, bare.model, "9", bare_settings)

    await asyncio.gather(runner.run(run.id), runner.run(run.id), runner.run(run.id))

    ended = await found(bare, run.id)
    assert (ended.status, ended.attempt) == ("completed", 1)


async def test_a_run_that_cannot_be_ended_does_not_keep_housekeeping_from_the_others(
    bare: Resources, project_id: str
) -> None:
    broken, sound = await queued(bare, project_id), await queued(bare, project_id)
    body = CreateRun.model_validate({"assistant_id": broken.assistant_id, "on_active_run": "enqueue"})
    async with bare.database.transaction() as session:
        behind = await runs.create(session, project_id, broken.thread_id, body, lifetime=600)
    await set_(bare, behind.id, additional_messages={"no": "messages"})
    for run in (broken, sound):
        await set_(bare, run.id, expires_at=now() - housekeeping.GRACE - 1)

    swept = await housekeeping.sweep(bare.database)

    assert swept.expired == 1
    assert (await found(bare, sound.id)).status == "expired"
