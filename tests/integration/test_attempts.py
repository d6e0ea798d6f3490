"""What is known of each attempt at a run, what becomes of lost ones, and rows that nobody can read."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa
from sqlmodel import col
from structlog.testing import capture_logs

from orchestrator import attempts, closing, housekeeping, lifecycle, presence, runs, threads
from orchestrator.db import Database, Session
from orchestrator.events.frames import Track
from orchestrator.execution import claims as claiming
from orchestrator.execution.arrivals import Arrivals
from orchestrator.execution.claims import Claims
from orchestrator.execution.runner import Runner
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.tables import Message, Run, RunAttempt, RunStep, Thread, Worker, now
from orchestrator.wire.requests import CreateRun, SubmitToolOutputs
from tests.fakes.model_control import RemoteModelServer
from tests.fakes.replies import Reply
from tests.integration.play import DEADLINE, Play
from tests.integration.test_runner import until
from tests.stack import Stack

FUNCTION = {"type": "function", "function": {"name": "look_up"}}


@pytest_asyncio.fixture(autouse=True)
async def quiet(bare: Resources) -> None:
    """No run and no worker of another test is left for housekeeping to find."""
    async with bare.database.transaction() as session:
        await session.execute(sa.delete(Thread))
        await session.execute(sa.delete(Worker))


@pytest_asyncio.fixture
async def scripted(stack: Stack) -> AsyncIterator[RemoteModelServer]:
    """The scripted model server; whatever waits there is let go at the end."""
    await asyncio.to_thread(stack.model.reset)
    yield stack.model
    await asyncio.to_thread(stack.model.reset)


@pytest.fixture
def play(bare: Resources, bare_settings: Settings, project_id: str) -> Play:
    return Play(bare, bare_settings, project_id)


# -- the record --


async def test_an_attempt_says_who_had_the_run_from_when_to_when_and_how_it_ended(play: Play) -> None:
    await play.begin()

    await play.carry()

    (attempt,) = await play.attempts()
    assert (attempt.attempt, attempt.worker, attempt.outcome) == (1, attempts.worker(), "completed")
    assert attempt.ended_at is not None
    assert attempt.ended_at >= attempt.started_at


async def test_a_run_that_waits_for_outputs_and_goes_on_has_two_attempts(
    play: Play, scripted: RemoteModelServer
) -> None:
    await asyncio.to_thread(scripted.script, Reply.tool_calls(("look_up", {})), Reply.text("Done."))
    await play.begin(tools=[FUNCTION])
    await play.carry()
    action = (await play.row()).required_action
    assert action is not None
    call_id = action["submit_tool_outputs"]["tool_calls"][0]["id"]
    outputs = SubmitToolOutputs.model_validate({"tool_outputs": [{"tool_call_id": call_id, "output": "42"}]})
    async with play.bare.database.transaction() as session:
        await runs.submit_tool_outputs(session, play.project_id, play.thread_id, play.run_id, outputs)

    await play.carry()

    assert await play.told() == [(1, "requires_action"), (3, "completed")]  # 2 was the client's


async def test_a_run_that_its_worker_hands_over_says_so_and_counts_no_loss(
    play: Play, scripted: RemoteModelServer
) -> None:
    await asyncio.to_thread(scripted.script, Reply.hang(), Reply.text("Done."))
    await play.begin()

    await play.cut(scripted)
    losses = (await play.row()).losses
    await play.carry()

    assert await play.told() == [(1, "handed over"), (2, "completed")]
    assert losses == 0


class Failing(Database):
    """A database of which the next transactions fail in a way that nobody has foreseen."""

    failures = 0

    @asynccontextmanager
    async def transaction(self, track: Track | None = None) -> AsyncIterator[Session]:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("nobody has foreseen this")
        async with super().transaction(track) as session:
            yield session


async def test_a_run_that_can_neither_go_on_nor_be_ended_is_given_up_by_its_worker_and_not_tried_in_a_loop(
    play: Play, scripted: RemoteModelServer
) -> None:
    await asyncio.to_thread(scripted.script, Reply.text("One two.").held("begun"))
    await play.begin()
    database = Failing(play.bare.database.engine, play.bare.database.publisher)
    running = asyncio.create_task(Runner(database, play.bare.model, play.owner, play.settings).run(play.run_id))
    await asyncio.to_thread(scripted.wait_for, lambda state: state["gates"].get("begun", {}).get("waiting") == 1)
    database.failures = 2  # the line, and the end as failed

    await asyncio.to_thread(scripted.release, "begun")
    with pytest.raises(RuntimeError):
        await asyncio.wait_for(running, DEADLINE)

    row = await play.row()
    assert (row.status, row.owner, row.losses) == ("in_progress", None, 1)
    (attempt,) = await play.attempts()
    assert (attempt.outcome, attempt.detail) == ("gave up", "RuntimeError")


@pytest.mark.parametrize("ending", ["cancelled", "expired"])
async def test_an_end_from_outside_closes_the_attempt(play: Play, ending: str) -> None:
    await play.begin()
    await play.left_by(play.owner)

    async with presence.present(play.owner, play.runner, play.bare.database, play.settings):  # it lives, but is silent
        row = await play.row()
        async with play.bare.database.transaction() as session:
            await (closing.cancel(session, row) if ending == "cancelled" else housekeeping._expire(session, row))

    assert await play.told() == [(1, ending)]


# -- what is lost --


async def test_a_worker_is_on_the_roster_while_it_lives(play: Play) -> None:
    async def known() -> list[tuple[str, str]]:
        async with play.bare.database.transaction() as session:
            return [(row.owner, row.name) for row in (await session.execute(sa.select(Worker))).scalars()]

    async with presence.present(play.owner, play.runner, play.bare.database, play.settings):
        assert await known() == [(play.owner, attempts.worker())]

    assert await known() == []


async def test_of_a_dead_worker_its_name_and_all_its_runs_are_told(play: Play) -> None:
    await play.begin()
    await play.left_by(play.owner)
    async with play.bare.database.transaction() as session:
        session.add(Worker(owner=play.owner, name="host:1"))

    with capture_logs() as logs:
        swept = await play.sweep()

    assert (swept.orphaned, swept.woken) == (1, 1)
    assert await play.told() == [(1, "worker died")]
    assert (await play.row()).losses == 1
    lost = [line for line in logs if line["event"] in ("worker_lost", "run_taken_away")]
    assert [(line["event"], line["worker"]) for line in lost] == [
        ("worker_lost", "host:1"),
        ("run_taken_away", attempts.worker()),
    ]
    assert (lost[0]["runs"], lost[1]["run_id"], lost[1]["reason"]) == (1, play.run_id, "worker died")


async def test_a_run_whose_lease_ran_out_says_so(play: Play) -> None:
    await play.begin()
    async with presence.present(play.owner, play.runner, play.bare.database, play.settings):
        await play.left_by(play.owner, lease_until=sa.func.now() - sa.text("interval '1 second'"))

        await play.sweep()

    assert await play.told() == [(1, "lease ran out")]


async def test_what_a_dead_worker_may_have_been_about_to_claim_is_enqueued_again_at_once(play: Play) -> None:
    await play.begin()
    before = await play.sweep()
    async with play.bare.database.transaction() as session:
        session.add(Worker(owner="424242", name="host:1"))

    after = await play.sweep()

    assert (before.woken, after.woken) == (0, 1)


async def test_hundreds_of_runs_of_a_dead_worker_are_taken_away_in_one_sweep(play: Play) -> None:
    many = 300
    async with play.bare.database.transaction() as session:
        rows = [Thread(project_id=play.project_id) for _ in range(many)]
        session.add_all(rows)
        await session.flush()
        for row in rows:
            held: dict[str, Any] = {
                "status": "in_progress",
                "owner": "424242",
                "attempt": 1,
                "project_id": play.project_id,
            }
            session.add(Run(thread_id=row.id, assistant_id="asst_x", model="m", expires_at=now() + 600, **held))

    swept = await play.sweep()

    assert (swept.orphaned, swept.woken) == (many, many)


async def test_a_run_that_was_left_and_that_nobody_has_room_for_is_woken_less_and_less_often(play: Play) -> None:
    await play.begin()
    await play.left_by("101")
    assert (await play.sweep()).orphaned == 1
    this = col(Run.id) == play.run_id
    pauses = []

    for seconds in (0, 10, 300):
        async with play.bare.database.transaction() as session:  # in which it is the same time all along
            ended = {"ended_at": sa.func.now() - timedelta(seconds=seconds)}
            await session.execute(sa.update(RunAttempt).where(col(RunAttempt.run_id) == play.run_id).values(ended))
            await session.execute(sa.update(Run).where(this).values(wake_at=sa.func.now()))
            assert await housekeeping._wake(session, 8) == 1
            pause = sa.func.extract("epoch", col(Run.wake_at) - sa.func.now())
            pauses.append(float((await session.execute(sa.select(pause).where(this))).scalar_one()))

    assert pauses == [housekeeping.SOON, 10.0, lifecycle.PATIENCE]


# -- what kills its workers --


async def test_the_first_losses_are_handed_on_at_once_and_later_ones_after_a_pause(play: Play) -> None:
    await play.begin()
    woken = []

    for owner in ("101", "102", "103"):
        await play.left_by(owner)
        woken.append((await play.sweep()).woken)

    row = await play.row()
    assert woken == [1, 1, 0]
    assert row.losses == 3
    assert row.wake_at is not None
    await play.set_(wake_at=sa.func.now())
    assert (await play.sweep()).woken == 1


@pytest.mark.parametrize(("losses", "longest"), [(2, 2), (3, 4), (6, 32), (50, 32)])
async def test_pauses_grow_to_a_bound(play: Play, losses: int, longest: float) -> None:
    async with play.bare.database.transaction() as session:
        pause = sa.func.extract("epoch", attempts.pause(sa.literal(losses)))
        drawn = [float((await session.execute(sa.select(pause))).scalar_one()) for _ in range(20)]

    assert 0 <= min(drawn) < max(drawn) <= longest


async def test_a_run_that_goes_on_losing_workers_fails_and_the_next_on_its_thread_gets_its_turn(play: Play) -> None:
    await play.begin()
    async with play.bare.database.transaction() as session:
        body = CreateRun.model_validate({"assistant_id": (await play.row()).assistant_id, "on_active_run": "enqueue"})
        behind = await runs.create(session, play.project_id, play.thread_id, body, lifetime=600)
    await play.left_by("101", losses=2)

    swept = await play.sweep(most=3)

    row = await play.row()
    assert (swept.orphaned, swept.woken, swept.given_up) == (1, 0, 1)
    assert (row.status, row.losses) == ("failed", 3)
    assert row.last_error == {
        "code": "server_error",
        "message": "The run was given up: 3 workers in a row were lost while they carried it out.",
    }
    async with play.bare.database.transaction() as session:
        assert await threads.active_run(session, play.thread_id) == behind.id


async def test_a_cancel_goes_before_giving_up(play: Play) -> None:
    await play.begin()
    await play.left_by("101", losses=2, status="cancelling")

    await play.sweep(most=3)

    assert (await play.row()).status == "cancelled"


@pytest.mark.parametrize("checkpoint", ["turn", "outputs"])
async def test_a_checkpoint_makes_good_for_all_losses(play: Play, scripted: RemoteModelServer, checkpoint: str) -> None:
    call = "no_such_tool" if checkpoint == "turn" else "look_up"
    await asyncio.to_thread(scripted.script, Reply.tool_calls((call, {})), Reply.hang())
    await play.begin(tools=[FUNCTION])
    await play.left_by("101", losses=5)
    await play.sweep()
    assert (await play.row()).losses == 6

    running = asyncio.create_task(play.runner.run(play.run_id))
    asked = 2 if checkpoint == "turn" else 1
    await asyncio.to_thread(scripted.wait_for, lambda state: state["requests"] == asked, timeout=DEADLINE)
    if checkpoint == "turn":
        running.cancel()
    await asyncio.wait([running], timeout=DEADLINE)

    assert (await play.row()).losses == 0


async def test_a_run_that_comes_to_wait_for_outputs_forgets_its_losses(play: Play) -> None:
    await play.begin()
    await play.left_by("101", losses=3)
    row = await play.row()

    async with play.bare.database.transaction() as session:
        await lifecycle.move(session, row, "requires_action", attempt="same", required_action={})

    assert (await play.row()).losses == 0


# -- what nobody can read --


async def _garbled_message(session: Session, run: Run) -> None:
    await session.execute(
        sa.update(Message).where(col(Message.thread_id) == run.thread_id).values(content={"no": "parts"})
    )


def _garbled(**values: Any) -> Callable[[Session, Run], Any]:
    async def garble(session: Session, run: Run) -> None:
        await session.execute(sa.update(Run).where(col(Run.id) == run.id).values(**values))

    return garble


def _garbled_step(**values: Any) -> Callable[[Session, Run], Any]:
    """A step of the run's own, as an earlier attempt may have left it."""

    async def garble(session: Session, run: Run) -> None:
        session.add(RunStep(run_id=run.id, thread_id=run.thread_id, assistant_id="a", type="tool_calls", **values))
        held: dict[str, Any] = {"status": "in_progress", "attempt": 1, "owner": None}
        await session.execute(sa.update(Run).where(col(Run.id) == run.id).values(**held))

    return garble


GARBLED: dict[str, tuple[Callable[[Session, Run], Any], str]] = {
    "a tool of an unknown type": (_garbled(tools=[{"type": "mcp"}]), "no tool of type 'mcp'"),
    "tools that are none": (_garbled(tools=["hammer"]), "tools cannot be read"),
    "tools that are no list": (_garbled(tools=7), "tools cannot be read"),
    "a function without a name": (_garbled(tools=[{"type": "function"}]), "tools cannot be read"),
    "a truncation strategy that is none": (_garbled(truncation_strategy=["x"]), "cannot be read"),
    "a message without parts": (_garbled_message, "cannot be read"),
    "a step without calls": (_garbled_step(step_details={}), "something went wrong"),
    "a step that cost nothing known": (
        _garbled_step(step_details={"tool_calls": []}, usage={"no": "usage"}),
        "something went wrong",
    ),
}


@pytest.mark.parametrize("name", GARBLED)
async def test_a_run_of_which_something_cannot_be_read_fails(play: Play, name: str) -> None:
    garble, reason = GARBLED[name]
    await play.begin()
    async with play.bare.database.transaction() as session:
        await garble(session, await play.row())

    await play.carry()

    row = await play.row()
    assert (row.status, row.owner) == ("failed", None)
    assert row.last_error is not None
    assert row.last_error["code"] == "server_error"
    assert reason in row.last_error["message"]
    assert (await play.told())[-1][1] == "failed"
    async with play.bare.database.transaction() as session:
        assert await threads.active_run(session, play.thread_id) is None


async def test_a_thread_that_cannot_be_handed_on_does_not_keep_others_from_theirs(
    play: Play, bare: Resources, bare_settings: Settings, project_id: str
) -> None:
    others = [await Play(bare, bare_settings, project_id).begin() for _ in range(4)]
    await play.begin()
    for each in others:
        await each.set_(waiting=True)
    await play.set_(waiting=True, additional_messages=["nonsense"])

    swept = await play.sweep()

    assert swept.turns == len(others)
    assert [(await each.row()).waiting for each in others] == [False] * len(others)


async def test_a_worker_whose_run_was_taken_away_writes_nothing_although_nobody_has_claimed_it_yet(
    play: Play, scripted: RemoteModelServer
) -> None:
    await asyncio.to_thread(scripted.script, Reply.text("One two.").held("taken"))
    await play.begin()
    running = asyncio.create_task(play.runner.run(play.run_id))
    await until(play.bare, sa.select(Message).where(col(Message.run_id) == play.run_id))
    await play.set_(lease_until=sa.func.now() - timedelta(seconds=1))
    assert (await housekeeping.sweep(play.bare.database)).orphaned == 1

    await asyncio.to_thread(scripted.release, "taken")
    await asyncio.wait_for(running, DEADLINE)

    assert (await play.row()).status == "in_progress"
    assert [attempt.outcome for attempt in await play.attempts()] == ["worker died"]


async def test_tool_resources_that_no_tool_reads_do_no_harm(play: Play) -> None:
    await play.begin()
    await play.set_(tool_resources=["nonsense"])

    await play.carry()

    assert (await play.row()).status == "completed"


async def test_a_run_that_is_cancelled_before_it_is_found_to_be_unreadable_is_cancelled(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    await play.begin()
    await play.set_(truncation_strategy=["x"])
    end_unread = Claims.end_unread

    async def overtaken(claims: Claims, run: Run, track: Track | None = None) -> None:
        await play.set_(status="cancelling")
        await end_unread(claims, run, track)

    monkeypatch.setattr(Claims, "end_unread", overtaken)
    await play.carry()

    assert (await play.row()).status == "cancelled"


async def test_a_run_that_comes_back_to_a_worker_before_it_was_read_there_keeps_its_lease(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    waiting = iter(gates)

    async def wait(claims: Claims) -> None:
        await next(waiting).wait()

    async def claimed(times: int) -> None:
        async with asyncio.timeout(DEADLINE):
            while True:
                if list(claims.unread.values()) == [times]:
                    break
                await asyncio.sleep(0.01)

    monkeypatch.setattr(Claims, "_all_are_claimed", wait)
    claims = Claims(play.bare.database, play.owner, play.settings, play.runner.windows)
    await play.begin()
    await play.set_(status="in_progress")
    first = asyncio.create_task(claims.take(play.run_id))
    await claimed(1)
    await play.set_(owner=None)
    second = asyncio.create_task(claims.take(play.run_id))
    await claimed(2)

    gates[0].set()
    left = await asyncio.wait_for(first, DEADLINE)
    carried = dict(claims.unread)
    gates[1].set()
    journal = await asyncio.wait_for(second, DEADLINE)

    assert left is None
    assert carried == {play.run_id: 2}
    assert journal is not None
    assert claims.unread == {}


async def test_a_run_that_was_left_behind_does_not_wait_for_those_that_come_new(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "CALM", 2 * DEADLINE)
    claims = Claims(play.bare.database, play.owner, play.settings, play.runner.windows)
    await play.begin()
    await play.set_(status="in_progress")

    take, other = Arrivals.take, asyncio.Event()

    async def slow(arrivals: Arrivals, run_id: str, attempt: int, until: float) -> Any:
        if run_id != play.run_id:
            other.set()
            await asyncio.Event().wait()
        return await take(arrivals, run_id, attempt, until)

    monkeypatch.setattr(Arrivals, "take", slow)
    coming = asyncio.create_task(claims.take("run_new", 0))
    await other.wait()
    journal = await asyncio.wait_for(claims.take(play.run_id), DEADLINE)
    coming.cancel()
    await asyncio.wait([coming])

    assert journal is not None


async def test_the_time_that_a_run_waits_to_be_read_counts(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def wait(claims: Claims) -> None:
        waited.append(asyncio.get_running_loop().time())

    monkeypatch.setattr(Claims, "_all_are_claimed", wait)
    monkeypatch.setattr(lifecycle, "time_left", lambda claimed, lease: 100.0)
    await play.begin()
    await play.set_(status="in_progress")

    journal = await Claims(play.bare.database, play.owner, play.settings, play.runner.windows).take(play.run_id)

    assert journal is not None
    assert journal._deadline <= waited[0] + 100.0


async def test_a_run_whose_thread_is_deleted_while_it_is_carried_is_left_without_a_word(
    play: Play, scripted: RemoteModelServer
) -> None:
    await asyncio.to_thread(scripted.script, Reply.text("One two.").held("deleted"))
    await play.begin()
    running = asyncio.create_task(play.runner.run(play.run_id))
    await asyncio.to_thread(scripted.wait_for, lambda state: state["gates"].get("deleted", {}).get("waiting") == 1)
    async with play.bare.database.transaction() as session:
        await session.execute(sa.delete(Thread).where(col(Thread.id) == play.thread_id))

    await asyncio.to_thread(scripted.release, "deleted")
    await asyncio.wait_for(running, DEADLINE)

    assert await play.attempts() == []
