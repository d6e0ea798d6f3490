"""More runs than there is room for, against the real database: who waits, and who is next."""

import asyncio
from collections import Counter

import pytest
import sqlalchemy as sa

from orchestrator import closing, lifecycle, places, runs, threads
from orchestrator.bounds import Bounds
from orchestrator.db import Session
from orchestrator.errors import Busy, RunCancelled
from orchestrator.execution.runner import Runner
from orchestrator.resources import Resources
from orchestrator.settings import RUN_ATTEMPTS, Settings
from orchestrator.tables import now
from orchestrator.wire.requests import CreateRun, CreateThreadAndRun, SubmitToolOutputs
from tests.integration.house import House, assistant_id, belongings, crowd, ids, narrow, quiet

__all__ = ["assistant_id", "narrow", "quiet"]

DEADLINE = 60.0


@pytest.fixture
def shared(bare: Resources, project_id: str, assistant_id: str) -> House:
    """Four places for all projects together."""
    return House(bare, project_id, assistant_id, Bounds(upstream=4))


async def test_what_is_beyond_the_bound_stays_queued_and_nobody_is_woken_for_it(narrow: House) -> None:
    made = [await narrow.create() for _ in range(4)]

    assert narrow.order == ids(made[:2])
    assert (await narrow.with_place(), await narrow.without()) == (ids(made[:2]), ids(made[2:]))
    assert [run.status for run in made] == ["queued"] * 4


async def test_a_run_without_a_place_is_not_carried_however_it_is_woken(narrow: House, bare_settings: Settings) -> None:
    made = [await narrow.create() for _ in range(3)]

    await Runner(narrow.database, narrow.bare.model, "9", bare_settings).run(made[2].id)
    swept = await narrow.sweep()

    assert (await narrow.statuses())[made[2].id] == "queued"
    assert (swept.woken, swept.placed) == (0, 0)


@pytest.mark.parametrize("ending", ["completed", "failed", "incomplete", "expired"])
async def test_whatever_the_ending_the_place_goes_to_the_oldest_that_waits(narrow: House, ending: str) -> None:
    made = [await narrow.create() for _ in range(4)]

    await narrow.end(await narrow.claim(made[0]), ending)

    assert narrow.order == ids(made[:3])
    assert (await narrow.with_place(), await narrow.without()) == (ids(made[1:3]), ids(made[3:]))


async def test_a_cancelled_run_hands_its_place_on_whoever_ends_it(narrow: House) -> None:
    made = [await narrow.create() for _ in range(5)]
    claimed = await narrow.claim(made[1])

    await narrow.cancel(made[0])  # nobody is at it: it ends here and now
    await narrow.cancel(made[1])  # its worker ends it
    assert await narrow.with_place() == ids(made[1:3])
    async with narrow.database.transaction() as session:
        with pytest.raises(RunCancelled):
            await lifecycle.hold(session, claimed, ending=True)
        await closing.end(session, claimed, "cancelled", attempt="same")

    assert (await narrow.with_place(), await narrow.without()) == (ids(made[2:4]), ids(made[4:]))
    assert narrow.order == ids(made[:4])


async def test_a_deleted_thread_hands_on_the_places_of_its_runs(narrow: House) -> None:
    made = [await narrow.create() for _ in range(3)]

    async with narrow.database.transaction() as session:
        await threads.delete(session, narrow.project_id, made[0].thread_id)

    assert await narrow.with_place() == ids(made[1:])


async def test_a_run_that_waits_for_a_place_ends_at_once_when_it_is_cancelled_and_hands_nothing_on(
    narrow: House,
) -> None:
    made = [await narrow.create() for _ in range(4)]

    await narrow.cancel(made[2])

    assert (await narrow.statuses())[made[2].id] == "cancelled"
    assert (await narrow.with_place(), await narrow.without()) == (ids(made[:2]), ids(made[3:]))


async def test_a_run_that_waits_for_a_place_expires_by_the_clock_of_all_and_is_passed_over(narrow: House) -> None:
    made = [await narrow.create() for _ in range(4)]
    await narrow.set_(made[2], expires_at=now() - 1)

    await narrow.end(await narrow.claim(made[0]))

    assert (await narrow.with_place(), await narrow.without()) == ([made[1].id, made[3].id], [made[2].id])
    assert (await narrow.sweep()).expired == 1
    assert (await narrow.statuses())[made[2].id] == "expired"


async def test_the_run_of_a_lost_worker_keeps_its_place(narrow: House) -> None:
    made = [await narrow.create() for _ in range(3)]
    await narrow.claim(made[0], "424242")  # nobody holds the lock of that worker

    swept = await narrow.sweep()

    assert (swept.orphaned, swept.placed) == (1, 0)
    assert await narrow.with_place() == ids(made[:2])
    taken_over = await narrow.claim(made[0], "2")
    assert taken_over.attempt == 2
    await narrow.end(taken_over)
    assert await narrow.with_place() == ids(made[1:])


async def test_a_run_that_is_given_up_hands_its_place_on(narrow: House) -> None:
    made = [await narrow.create() for _ in range(3)]
    await narrow.claim(made[0], "424242")
    await narrow.set_(made[0], losses=RUN_ATTEMPTS)

    swept = [await narrow.sweep() for _ in range(2)]

    assert sum(each.given_up for each in swept) == 1
    assert await narrow.with_place() == ids(made[1:])


async def test_a_run_that_waits_for_outputs_holds_no_place_and_gets_the_next_one_when_it_has_them(
    narrow: House, bare_settings: Settings
) -> None:
    body = CreateRun.model_validate(
        {
            "assistant_id": narrow.assistant_id,
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "additional_messages": [{"role": "user", "content": "[[tool=f:{}]]"}],
        }
    )
    scene = await narrow.scene()
    async with narrow.database.transaction() as session:
        asking = await runs.create(session, narrow.project_id, scene.thread_id, body, lifetime=600)
    others = [await narrow.create() for _ in range(4)]
    runner = Runner(narrow.database, narrow.bare.model, "9", bare_settings)

    await asyncio.wait_for(runner.run(asking.id), DEADLINE)

    assert (await narrow.statuses())[asking.id] == "requires_action"
    assert (await narrow.with_place(), await narrow.without()) == (ids(others[:2]), ids(others[2:]))
    async with narrow.database.transaction() as session:
        waiting = await runs.retrieve(session, narrow.project_id, asking.thread_id, asking.id)
        (call,) = (waiting.required_action or {})["submit_tool_outputs"]["tool_calls"]
        given = SubmitToolOutputs.model_validate({"tool_outputs": [{"tool_call_id": call["id"], "output": "1"}]})
        await runs.submit_tool_outputs(session, narrow.project_id, asking.thread_id, asking.id, given)
    assert await narrow.without() == ids([asking, *others[2:]])

    await narrow.end(await narrow.claim(others[0]))

    assert await narrow.with_place() == ids([asking, others[1]])
    assert narrow.order == ids([asking, *others[:2], asking])


async def test_a_run_that_waits_for_its_turn_holds_no_place_and_stands_in_line_by_its_age(narrow: House) -> None:
    scene = await narrow.scene()
    first, second = await scene.create(), await scene.create()
    others = [await narrow.create() for _ in range(3)]
    assert await narrow.with_place() == ids([first, others[0]])

    await narrow.end(await narrow.claim(first))

    assert await scene.active() == second.id
    assert await narrow.with_place() == ids([second, others[0]])
    await narrow.cancel(second)
    assert await narrow.with_place() == ids(others[:2])


async def test_a_run_that_interrupts_stands_in_line_while_the_place_goes_to_whoever_waited_for_it(
    narrow: House,
) -> None:
    scene = await narrow.scene()
    first = await scene.create()
    others = [await narrow.create() for _ in range(2)]

    new = await scene.create("interrupt")

    assert (await narrow.statuses())[first.id] == "cancelled"
    assert (await narrow.with_place(), await narrow.without()) == (ids(others), [new.id])


async def test_another_projects_run_does_not_wait_behind_a_thousand_of_ours(narrow: House) -> None:
    for _ in range(5):
        await narrow.create()

    theirs = await (await narrow.other("beta")).create()

    assert narrow.order[-1] == theirs.id


async def test_of_projects_that_share_a_bound_the_one_with_the_fewest_places_is_next(shared: House) -> None:
    ours = [await shared.create() for _ in range(4)]
    await crowd(shared, 200)
    beta, gamma = await shared.other("beta"), await shared.other("gamma")
    theirs = [await beta.create() for _ in range(3)]
    last = await gamma.create()
    assert shared.order == ids(ours)

    for run in ours[:3]:
        await shared.end(await shared.claim(run))

    held = {shared.project_id: 2, beta.project_id: 1, gamma.project_id: 1}
    assert shared.order[4:6] == [theirs[0].id, last.id]
    assert Counter(await belongings(shared)) == held  # of three with one each, the one that has waited longest was next
    await gamma.end(await gamma.claim(last))
    assert shared.order[7:] == [theirs[1].id]


async def test_a_project_at_its_own_bound_leaves_shared_places_to_others(
    bare: Resources, project_id: str, assistant_id: str
) -> None:
    house = House(bare, project_id, assistant_id, Bounds(project=1, upstream=2))
    beta, gamma = await house.other("beta"), await house.other("gamma")
    made = [await each.create() for each in (house, house, beta, gamma)]
    assert house.order == ids([made[0], made[2]])

    await beta.end(await beta.claim(made[2]))

    assert house.order[2:] == [made[3].id]
    await house.end(await house.claim(made[0]))
    assert house.order[3:] == [made[1].id]


@pytest.mark.parametrize("bounds", [Bounds(project=5), Bounds(upstream=5)], ids=["of a project", "of all"])
async def test_housekeeping_gives_away_what_nobody_has_handed_on(narrow: House, bounds: Bounds) -> None:
    made = [await narrow.create() for _ in range(8)]

    narrow.database.bounds = bounds  # as if it had been raised
    first, second = await narrow.sweep(), await narrow.sweep()

    assert (first.placed, second.placed) == (3, 0)
    assert narrow.order == ids(made[:5])
    await narrow.set_(made[0], status="completed")  # as if its end had handed nothing on
    assert (await narrow.sweep()).placed == 1
    assert narrow.order == ids(made[:6])


async def test_a_bound_that_is_lowered_is_reached_by_not_handing_on(narrow: House) -> None:
    narrow.database.bounds = Bounds(project=4)
    made = [await narrow.create() for _ in range(6)]
    narrow.database.bounds = Bounds(project=2)

    for run in made[:3]:
        await narrow.end(await narrow.claim(run))

    assert await narrow.with_place() == ids(made[3:5])


async def test_far_from_a_bound_nothing_is_locked(narrow: House) -> None:
    locks = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = :class")

    async def held(session: Session) -> int:
        found = await session.execute(locks, {"class": places.LOCK_CLASS})
        return int(found.scalar_one())

    body = CreateThreadAndRun.model_validate({"assistant_id": narrow.assistant_id})
    found = {}
    for bounds in (Bounds(), Bounds(upstream=1000), Bounds(project=2), Bounds(upstream=2)):
        narrow.database.bounds = bounds
        async with narrow.database.transaction() as session:
            await runs.create_with_thread(session, narrow.project_id, body, lifetime=600)
            found[bounds] = await held(session)

    assert list(found.values()) == [0, 0, 1, 1]


async def test_a_full_queue_refuses_and_changes_nothing(narrow: House) -> None:
    narrow.database.bounds = Bounds(project=1, queue=2)
    scene = await narrow.scene()
    before = [await narrow.create() for _ in range(3)]

    with pytest.raises(Busy) as refused:
        await narrow.create()
    with pytest.raises(Busy):
        await scene.create(said="never")

    text = "Rate limit reached for runs of this project. Limit: 2 that wait to begin. Please try again in"
    assert refused.value.message == f"{text} {refused.value.retry_after}s."
    assert refused.value.code == "rate_limit_exceeded"
    assert list(await narrow.statuses()) == ids(before)
    assert await scene.said() == []
    await narrow.cancel(before[1])
    await narrow.create()
