"""Clocks that are wrong, or jump: the database's decides, and even that may be put back."""

import asyncio
import time
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlmodel import col

from orchestrator import housekeeping, presence
from orchestrator.execution.runner import Runner
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.tables import EPOCH, Run
from tests.fakes.model_control import RemoteModelServer
from tests.fakes.replies import Reply
from tests.integration.test_runner import DEADLINE, found, queued, scripted

__all__ = ["scripted"]

HOUR = 3600


async def set_(bare: Resources, run: Run, **values: object) -> None:
    async with bare.database.transaction() as session:
        await session.execute(sa.update(Run).where(col(Run.id) == run.id).values(**values))


@pytest.mark.parametrize("wrong", [HOUR, -HOUR], ids=["ahead", "behind"])
async def test_a_host_whose_clock_is_wrong_creates_carries_and_expires_runs_in_time(
    bare: Resources,
    bare_settings: Settings,
    project_id: str,
    scripted: RemoteModelServer,
    monkeypatch: pytest.MonkeyPatch,
    wrong: int,
) -> None:
    await asyncio.to_thread(scripted.script, Reply.text("One two."))
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + wrong)

    run, overdue = await queued(bare, project_id, "Count!"), await queued(bare, project_id, "Late.")
    await set_(bare, overdue, expires_at=EPOCH - 60)
    await housekeeping.sweep(bare.database)
    await asyncio.wait_for(Runner(bare.database, bare.model, "9", bare_settings).run(run.id), DEADLINE)

    ended = await found(bare, run.id)
    assert ended.status == "completed"
    assert ended.expires_at - ended.created_at == 600
    assert abs(ended.created_at - right()) < HOUR / 2
    assert abs((ended.completed_at or 0) - right()) < HOUR / 2
    assert (await found(bare, overdue.id)).status == "expired"


async def test_a_lease_beyond_all_leases_is_over_and_an_ordinary_one_is_not(bare: Resources, project_id: str) -> None:
    far, near = await queued(bare, project_id, "Far"), await queued(bare, project_id, "Near")
    async with bare.database.engine.connect() as living:
        await living.execute(sa.select(sa.func.pg_advisory_lock(presence.LOCK_CLASS, 4713)))
        at_work = {"status": "in_progress", "owner": "4713", "attempt": 1}
        await set_(bare, far, **at_work, lease_until=sa.func.now() + timedelta(hours=1))
        await set_(bare, near, **at_work, lease_until=sa.func.now() + timedelta(seconds=30))

        await housekeeping.sweep(bare.database, lease=10.0)  # the setting has just been changed: "4713" has the old one

        assert (await found(bare, far.id)).owner is None
        assert (await found(bare, near.id)).owner == "4713"
    await set_(bare, near, status="failed")


async def test_a_wake_up_that_was_set_by_another_time_is_sent(bare: Resources, project_id: str) -> None:
    run = await queued(bare, project_id, "Hi")
    await set_(bare, run, wake_at=sa.func.now() + timedelta(hours=1))

    await housekeeping.sweep(bare.database)

    async with bare.database.transaction() as session:
        soon = col(Run.wake_at) < sa.func.now() + timedelta(minutes=5)
        assert (await session.execute(sa.select(soon).where(col(Run.id) == run.id))).scalar_one()


async def test_the_api_keeps_the_time_although_all_workers_are_gone(bare: Resources, project_id: str) -> None:
    run, left = await queued(bare, project_id, "Late"), await queued(bare, project_id, "Left")
    await set_(bare, run, status="in_progress", owner="1", expires_at=EPOCH - housekeeping.GRACE)
    await set_(bare, left, status="cancelling")

    keeping = asyncio.create_task(housekeeping.keep_the_time(bare.database, 0.05))
    async with asyncio.timeout(DEADLINE):
        while True:
            if [(await found(bare, each.id)).status for each in (run, left)] == ["expired", "cancelled"]:
                break
            await asyncio.sleep(0.02)
    keeping.cancel()
    await asyncio.wait([keeping])
