"""Runs that are claimed together: in one statement, as each would have been alone, and none at another's cost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import asyncpg
import pytest
import sqlalchemy as sa
from sqlmodel import col

from orchestrator import attempts, runs, threads
from orchestrator.db import Database
from orchestrator.direct import Direct
from orchestrator.errors import RunFailure
from orchestrator.execution import arriving
from orchestrator.execution.claims import UNREADABLE, Claims
from orchestrator.execution.journal import Journal
from orchestrator.model import Prompt
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.tables import Message, Run, RunAttempt, RunStep
from orchestrator.windows import Windows
from tests.integration.test_past import called, run_after, said, statements
from tests.life.stage import Post

DEADLINE = 60.0
OWNER = "9"

Moment = Literal["before", "after"]


class Told(Post):
    """What was told, and nothing else."""

    def names(self, run_id: str) -> list[tuple[str, str]]:
        """Cursors and names of a run's events."""
        mine = [frame for frame in self.told if frame.run_id == run_id]
        return [(str(frame.cursor), frame.data.decode().split("\n")[1].removeprefix("event: ")) for frame in mine]


class Watched(Direct):
    """The short way of the bare process: counted, and made to fail or to wait."""

    def __init__(self, direct: Direct) -> None:
        self.direct = direct
        self.sent: list[str] = []
        self.troubles: list[tuple[Moment, Exception]] = []
        self.gates: dict[Moment, asyncio.Event] = {}
        self.reached = asyncio.Event()

    async def fetch(self, statement: str, *arguments: Any) -> list[Any]:
        self.sent.append(statement)
        moment, trouble = self.troubles.pop(0) if self.troubles else (None, None)
        await self._stop("before")
        if trouble is not None and moment == "before":
            raise trouble
        found = await self.direct.fetch(statement, *arguments)
        if trouble is not None:
            raise trouble
        await self._stop("after")
        return found

    async def _stop(self, moment: Moment) -> None:
        if (gate := self.gates.get(moment)) is not None:
            self.reached.set()
            await gate.wait()


class Worker:
    """A worker's claims, made together if there is a short way, and one by one if there is none."""

    def __init__(self, bare: Resources, settings: Settings, *, together: bool = True) -> None:
        assert bare.database.direct is not None
        self.told = Told()
        self.direct = Watched(bare.database.direct)
        self.database = Database(bare.database.engine, self.told, self.direct if together else None)
        self.claims = Claims(self.database, OWNER, settings, Windows(settings))

    async def take(self, *taken: Run) -> list[Journal | None]:
        """Take them all, at the attempts at which they are known."""
        async with asyncio.timeout(DEADLINE):
            return await asyncio.gather(*(self.claims.take(run.id, run.attempt) for run in taken))


@pytest.fixture
def worker(bare: Resources, bare_settings: Settings) -> Worker:
    """A worker that claims together."""
    return Worker(bare, bare_settings)


async def found(bare: Resources, run: Run) -> Run:
    async with bare.database.transaction() as session:
        return (await session.execute(sa.select(Run).where(col(Run.id) == run.id))).scalar_one()


async def attempts_at(bare: Resources, run: Run) -> list[tuple[int, str | None]]:
    """The attempts at a run, and what became of them."""
    async with bare.database.transaction() as session:
        query = sa.select(RunAttempt).where(col(RunAttempt.run_id) == run.id).order_by(col(RunAttempt.attempt))
        return [(row.attempt, row.outcome) for row in (await session.execute(query)).scalars()]


async def set_(bare: Resources, run: Run, **values: object) -> None:
    async with bare.database.transaction() as session:
        await session.execute(sa.update(Run).where(col(Run.id) == run.id).values(**values))


async def is_taken(bare: Resources, run: Run) -> bool:
    """Whether the worker has claimed it, once."""
    now = await found(bare, run)
    return (now.status, now.owner, now.attempt) == ("in_progress", OWNER, run.attempt + 1)


async def test_runs_that_come_together_are_claimed_and_read_in_one_round_trip(
    bare: Resources, project_id: str, worker: Worker
) -> None:
    taken = [await run_after(bare, project_id, said(f"Question {number}")) for number in range(30)]

    with statements(bare) as seen:
        journals = await worker.take(*taken)

    assert (len(worker.direct.sent), seen) == (1, [])
    for number, (run, journal) in enumerate(zip(taken, journals, strict=True)):
        assert journal is not None
        assert (journal.run.id, journal.run.attempt, journal.run.owner) == (run.id, 1, OWNER)
        with statements(bare) as seen:
            prompt = await journal.prompt([])
        assert (prompt.messages, seen) == ([{"role": "user", "content": f"Question {number}"}], [])
        assert worker.told.names(run.id) == [("1-1", "thread.run.in_progress")]
        assert await attempts_at(bare, run) == [(1, None)]


async def _own(bare: Resources, run: Run, *items: Message | RunStep) -> None:
    """What the run itself has said and called, before it was resumed."""
    async with bare.database.transaction() as session:
        for item in items:
            item.thread_id, item.run_id = run.thread_id, run.id
            item.assistant_id = run.assistant_id
            session.add(item)
            await session.flush()
        await session.execute(sa.update(Run).where(col(Run.id) == run.id).values(attempt=2, started_at=1))
    run.attempt = 2


USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": 7,
    "total_tokens": 12,
    "prompt_token_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}


async def _kinds(bare: Resources, project_id: str) -> dict[str, Run]:
    """Runs on threads of all kinds."""
    torn: dict[str, Any] = {"status": "incomplete", "incomplete_details": {"reason": "run_failed"}}
    cancelled: dict[str, Any] = {"status": "incomplete", "incomplete_details": {"reason": "run_cancelled"}}
    image = Message(thread_id="", role="user", content=[{"type": "image_url", "image_url": {"url": "https://x/y.png"}}])
    last: dict[str, Any] = {"type": "last_messages", "last_messages": 3}
    function = {"type": "function", "function": {"name": "look_up", "parameters": {"z": 1, "a": 2}}}
    turns: list[Message | RunStep] = [said("Hi"), called("one"), said("It is one.", "assistant"), called()]
    turns.append(said("Well?"))

    async def run(*history: Message | RunStep, **fields: Any) -> Run:
        return await run_after(bare, project_id, *history, **fields)

    made = {
        "nothing": await run(),
        "plain": await run(said("Hi"), instructions="Be brief.", metadata={"a": "ü"}, temperature=0.5),
        "turns": await run(*turns, tools=[function], tool_choice="required"),
        "torn": await run(said("Hi"), said("Half", "assistant", **torn), said("Whole", "assistant", **cancelled)),
        "image": await run(image, said("What is it?")),
        "last": await run(*[said(str(number)) for number in range(5)], truncation_strategy=last),
        "page": await run(many=100, model="gpt-4o"),
        "long": await run(said("Newest"), many=700),
        "calls": await run(said("Hi"), *[called(str(number)) for number in range(30)]),
        "resumed": await run(said("Hi")),
        "resumed silently": await run(said("Hi"), called(), max_prompt_tokens=1000),
    }
    await _own(bare, made["resumed"], said("Let me see.", "assistant"), called("two"))
    silent = called("two")
    silent.usage = USAGE
    await _own(bare, made["resumed silently"], silent)
    return made


async def _taken(
    bare: Resources, settings: Settings, run: Run, *, together: bool
) -> tuple[Prompt, dict[str, Any], list[tuple[int, str | None]], list[str]]:
    """What becomes of a run that is claimed, before it is put back."""
    worker = Worker(bare, settings, together=together)
    (journal,) = await worker.take(run)
    assert journal is not None
    assert len(worker.direct.sent) == together
    prompt = await journal.prompt(journal.run.tools)
    row = (await found(bare, run)).model_dump(exclude={"lease_until", "started_at"})
    noted = await attempts_at(bare, run)
    told = [frame.data.decode() for frame in worker.told.told]
    unseen = {name: value for name, value in journal.run.__dict__.items() if not name.startswith("_")}
    assert {name: unseen[name] for name in row} == row
    async with bare.database.transaction() as session:
        await session.execute(sa.delete(RunAttempt).where(col(RunAttempt.run_id) == run.id))
    started = {"started_at": 1, "owner": None, "lease_until": None}
    await set_(bare, run, status="queued", attempt=run.attempt, **started)
    return prompt, row, noted, told


async def test_a_run_is_claimed_and_read_as_it_would_be_alone(
    bare: Resources, bare_settings: Settings, project_id: str
) -> None:
    for kind, run in (await _kinds(bare, project_id)).items():
        alone, *facts_alone, told_alone = await _taken(bare, bare_settings, run, together=False)
        prompt, *facts, told = await _taken(bare, bare_settings, run, together=True)

        assert prompt.messages == alone.messages, kind
        assert (prompt.tools, prompt.tool_choice) == (alone.tools, alone.tool_choice), kind
        assert facts == facts_alone, kind
        assert [_without_time(data) for data in told] == [_without_time(data) for data in told_alone], kind


def _without_time(frame: str) -> list[str]:
    return [part for part in frame.split(",") if not part.startswith('"started_at":')]


@asynccontextmanager
async def locked(settings: Settings, run: Run) -> AsyncIterator[None]:
    """While the block runs, somebody else has the run's row."""
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    try:
        async with connection.transaction():
            await connection.execute("SELECT FROM runs WHERE id = $1 FOR UPDATE", run.id)
            yield
    finally:
        await connection.close()


async def test_what_is_not_plain_goes_its_own_way_and_holds_up_nobody(
    bare: Resources, bare_settings: Settings, project_id: str, worker: Worker
) -> None:
    names = ("plain", "locked", "expired", "taken", "waiting", "without a place", "ahead", "cancelled", "left", "gone")
    made = {name: await run_after(bare, project_id, said(name)) for name in names}
    await set_(bare, made["expired"], expires_at=1)
    await set_(bare, made["taken"], status="in_progress", owner="8", attempt=1)
    await set_(bare, made["waiting"], waiting=True)
    await set_(bare, made["ahead"], attempt=2)
    await set_(bare, made["left"], status="in_progress", owner=None, attempt=1)
    made["left"].attempt = 1
    async with bare.database.transaction() as session:
        await runs.cancel(session, project_id, made["cancelled"].thread_id, made["cancelled"].id)
        await threads.delete(session, project_id, made["gone"].thread_id)
    await set_(bare, made["without a place"], placed=False)
    before = {name: await found(bare, run) for name, run in made.items() if name != "gone"}

    async with locked(bare_settings, made["locked"]):
        taking = {name: asyncio.create_task(worker.claims.take(run.id, run.attempt)) for name, run in made.items()}
        async with asyncio.timeout(DEADLINE):
            journals = {name: await task for name, task in taking.items() if name != "locked"}
    async with asyncio.timeout(DEADLINE):
        journals["locked"] = await taking["locked"]

    assert {name for name, journal in journals.items() if journal is not None} == {"plain", "locked", "left"}
    for name, run in before.items():
        if journals[name] is None:
            assert await found(bare, run) == run, name
        else:
            assert await is_taken(bare, made[name]), name
    assert worker.told.names(made["left"].id) == []


async def test_a_wake_up_that_names_no_attempt_is_answered_alone(
    bare: Resources, project_id: str, worker: Worker
) -> None:
    run = await run_after(bare, project_id, said("Hi"))

    assert await worker.claims.take(run.id) is not None
    assert worker.direct.sent == []


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_runs_whose_answer_was_lost_are_claimed_once_and_told_once(
    bare: Resources, project_id: str, worker: Worker, moment: Moment
) -> None:
    taken = [await run_after(bare, project_id, said("Hi")) for _ in range(5)]
    worker.direct.troubles = [(moment, ConnectionResetError()), (moment, ConnectionResetError())]

    journals = await worker.take(*taken, *taken)  # each wake-up comes twice

    for run in taken:
        mine = [journal for journal in journals if journal is not None and journal.run.id == run.id]
        assert len(mine) == 1
        assert await is_taken(bare, run)
        assert await attempts_at(bare, run) == [(1, None)]
        assert worker.told.names(run.id) == [("1-1", "thread.run.in_progress")]
        assert (await mine[0].prompt([])).messages == [{"role": "user", "content": "Hi"}]


async def test_a_run_whose_answer_was_lost_is_left_to_who_has_taken_it_since(
    bare: Resources, project_id: str, worker: Worker
) -> None:
    run = await run_after(bare, project_id, said("Hi"))
    worker.direct.troubles = [("after", ConnectionResetError())]
    first, again = asyncio.Event(), asyncio.Event()
    worker.direct.gates = {"before": first}
    taking = asyncio.create_task(worker.claims.take(run.id, run.attempt))
    await worker.direct.reached.wait()
    worker.direct.gates = {"before": again}  # it is not asked again before somebody else has it
    first.set()
    async with asyncio.timeout(DEADLINE):
        while not await is_taken(bare, run):  # noqa: ASYNC110  # rows tell nobody
            await asyncio.sleep(0.01)
    await set_(bare, run, owner="8", attempt=2)
    again.set()

    async with asyncio.timeout(DEADLINE):
        assert await taking is None
    assert worker.told.told == []


async def test_a_claim_whose_answer_was_lost_is_waited_for_if_postgres_is_still_at_it(
    bare: Resources, bare_settings: Settings, project_id: str, worker: Worker
) -> None:
    run = await run_after(bare, project_id, said("Hi"))
    worker.direct.troubles = [("before", ConnectionResetError())]
    terms = [run.id], [run.attempt], OWNER, 30.0, "w", *arriving.bounds()

    lost = await asyncpg.connect(bare_settings.database_url.get_secret_value())
    async with lost.transaction():
        assert len(await lost.fetch(arriving.STATEMENT, *terms)) == 1
        taking = asyncio.create_task(worker.claims.take(run.id, run.attempt))
        async with asyncio.timeout(DEADLINE):
            while not await lost.fetchval(BLOCKED):  # noqa: ASYNC110  # Postgres tells nobody
                await asyncio.sleep(0.01)
    await lost.close()

    async with asyncio.timeout(DEADLINE):
        assert await taking is not None
    assert await is_taken(bare, run)
    assert worker.told.names(run.id) == [("1-1", "thread.run.in_progress")]


BLOCKED = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
"""Not by `pg_stat_activity`: a transaction sees the sessions that there were when it first looked."""


async def test_a_batch_that_fails_for_good_is_claimed_one_by_one(
    bare: Resources, project_id: str, worker: Worker
) -> None:
    taken = [await run_after(bare, project_id, said("Hi")) for _ in range(3)]
    worker.direct.troubles = [("before", asyncpg.DataError("one of them, who knows which"))]

    assert all(await worker.take(*taken))
    assert len(worker.direct.sent) == 1
    for run in taken:
        assert await is_taken(bare, run)


CORRUPT = {
    "no message": """UPDATE messages SET content = '[{"nonsense": 1}]' WHERE thread_id = $1""",
    "no list": "UPDATE messages SET content = '7' WHERE thread_id = $1",
    "no character": r"""UPDATE messages SET content = '"\ud800"' WHERE thread_id = $1""",
    "no reason": r"""UPDATE messages SET incomplete_details = '"\u0000"', content = '7' WHERE thread_id = $1""",
    "no strategy": "UPDATE runs SET truncation_strategy = '[]' WHERE thread_id = $1 AND status = 'queued'",
    "no calls": "UPDATE run_steps SET step_details = '[]' WHERE thread_id = $1",
}


async def test_a_run_that_cannot_be_read_fails_alone(
    bare: Resources, bare_settings: Settings, project_id: str, worker: Worker
) -> None:
    good = [await run_after(bare, project_id, said("Hi")) for _ in range(3)]
    bad = {kind: await run_after(bare, project_id, said("Hi"), called()) for kind in CORRUPT}
    assert bare.database.direct is not None
    for kind, run in bad.items():
        await bare.database.direct.fetch(CORRUPT[kind], run.thread_id)

    journals = await worker.take(*good, *bad.values())

    assert [journal is not None for journal in journals] == [True] * len(good) + [False] * len(bad)
    assert len(worker.direct.sent) == 1
    for kind, run in bad.items():
        ended = await found(bare, run)
        assert (ended.status, ended.last_error, ended.attempt) == ("failed", UNREADABLE, 1), kind
        names = [("1-1", "thread.run.in_progress"), ("1-2", "thread.run.failed")]
        assert worker.told.names(run.id) == names, kind


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_what_is_claimed_for_a_caller_who_has_left_is_given_back(
    bare: Resources, project_id: str, worker: Worker, moment: Moment
) -> None:
    taken = [await run_after(bare, project_id, said("Hi")) for _ in range(2)]
    worker.direct.gates = {moment: asyncio.Event()}
    leaving, staying = (asyncio.create_task(worker.claims.take(run.id, run.attempt)) for run in taken)
    await worker.direct.reached.wait()

    leaving.cancel()
    await asyncio.sleep(0)
    worker.direct.gates[moment].set()
    async with asyncio.timeout(DEADLINE):
        await asyncio.wait([leaving])
        assert await staying is not None

    assert leaving.cancelled()
    left = await found(bare, taken[0])
    assert (left.status, left.owner, left.losses) == ("in_progress", None, 0)
    assert await attempts_at(bare, taken[0]) == [(1, "handed over")]
    assert [run_id for run_id, _ in worker.told.wakeups] == []  # they go through the broker


async def test_a_page_that_is_too_heavy_for_a_batch_is_read_by_itself(
    bare: Resources, project_id: str, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arriving, "HEAVY", 200)
    light = await run_after(bare, project_id, said("Hi"))
    heavy = await run_after(bare, project_id, *[said(str(number)) for number in range(8)])
    busy = await run_after(bare, project_id, said("Hi"), *[called() for _ in range(8)])

    with statements(bare) as seen:
        journals = await worker.take(light, heavy, busy)

    assert seen
    told = [(await journal.prompt([])).messages for journal in journals if journal is not None]
    assert [len(messages) for messages in told] == [1, 8, 17]
    assert worker.claims.unread == {}
    for run in (light, heavy, busy):
        assert worker.told.names(run.id) == [("1-1", "thread.run.in_progress")]


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """All nodes of a plan."""
    return [plan, *[node for part in plan.get("Plans", ()) for node in nodes(part)]]


async def plan_of(connection: Any, mode: str, *terms: Any) -> list[dict[str, Any]]:
    """The nodes of the claim's plan, made like that; what was claimed is given back."""
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
    ((plan,),) = await connection.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) {arriving.STATEMENT}", *terms)
    await transaction.rollback()
    return nodes(plan[0]["Plan"])


async def add_past_runs(connection: Any, of: str, count: int) -> None:
    """Runs of the same thread that are over."""
    names = ", ".join(
        f'"{column.name}"' for column in attempts.table(Run).c if column.name not in ("id", "position", "status")
    )
    copied = f"SELECT 'run_past' || number, 'completed', {names} FROM runs, generate_series(1, $2) number WHERE id = $1"  # noqa: S608
    await connection.execute(f"INSERT INTO runs (id, status, {names}) {copied}", of, count)


async def test_a_run_of_a_long_thread_costs_a_walk_to_its_last_messages(
    bare: Resources, project_id: str, worker: Worker
) -> None:
    """However the plan is made (for these values, or once for all), and whatever Postgres knows of the tables."""
    taken = [await run_after(bare, project_id, said("Newest"), many=20_000), await run_after(bare, project_id)]
    terms = ([run.id for run in taken], [run.attempt for run in taken], OWNER, 30.0, "w", *arriving.bounds())
    plans = []
    connection = await worker.direct.direct._connect()  # as all of the short way's are
    await add_past_runs(connection, taken[0].id, 300)
    for learns in ("SELECT 1", "ANALYZE runs, messages, run_steps"):
        await connection.execute(learns)
        plans += [await plan_of(connection, f"force_{kind}_plan", *terms) for kind in ("custom", "generic")]
    await connection.close()

    for found in plans:
        scans = [node for node in found if "Relation Name" in node and "Scan" in node["Node Type"]]
        assert {(scan["Relation Name"], scan["Node Type"], scan.get("Index Name")) for scan in scans} == {
            ("runs", "Index Scan", "runs_pkey"),
            ("runs", "Tid Scan", None),
            ("messages", "Index Scan", "messages_thread_id_position"),
            ("messages", "Index Scan", "messages_run_id_thread_id_position"),
            ("run_steps", "Index Scan", "run_steps_tool_calls"),
            ("run_steps", "Index Scan", "run_steps_run_id_position"),
        }
        for scan in scans:
            beside = scan.get("Rows Removed by Filter", 0) + scan.get("Rows Removed by Join Filter", 0)
            assert scan["Actual Rows"] + beside <= 110, scan
        assert all(node["Node Type"] not in ("Sort", "Incremental Sort") for node in found)


async def test_a_worker_does_not_take_the_run_again_that_it_has_failed_to_read(
    bare: Resources, project_id: str, worker: Worker
) -> None:
    run = await run_after(bare, project_id, said("Hi"))
    (journal,) = await worker.take(run)
    assert journal is not None

    assert await worker.take(run) == [None]
    await journal.fail(RunFailure("server_error"))
    assert await worker.take(run) == [None]
    assert await attempts_at(bare, run) == [(1, "failed")]
