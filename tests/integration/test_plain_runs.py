"""Runs that are carried in the plain way: they leave what the long way leaves, in few statements, and lose nothing."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any, Literal

import orjson
import pytest
import sqlalchemy as sa
from sqlmodel import SQLModel, col

from orchestrator import runs
from orchestrator.db import Database
from orchestrator.direct import Direct
from orchestrator.events import frames
from orchestrator.events.publisher import stream_key
from orchestrator.execution.runner import Runner
from orchestrator.foreign import Json
from orchestrator.plain.verbs import Plain
from orchestrator.plain_lines import FREE
from orchestrator.plain_statements import CALLS, CALLS_AFTER_MESSAGES, COMPLETIONS, MESSAGES, OUTPUTS, RESTS, TURNS
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.tables import Message, Run, RunAttempt, RunStep, WebhookDelivery
from orchestrator.wire.requests import SubmitToolOutputs
from tests.fakes.model_control import RemoteModelServer
from tests.fakes.replies import Reply
from tests.integration.plain_scene import Counted
from tests.integration.scene import all_sent
from tests.integration.test_runner import DEADLINE, found, queued, scripted

__all__ = ["scripted"]

LOOK = {"type": "function", "function": {"name": "look_up"}}
IDS = re.compile(r"\b(?:run|step|msg|thread|asst|evt|proj)_[A-Za-z0-9]{10,}|\bcall_[A-Za-z0-9_-]+")
TIMES = re.compile(r"(?<![\w.])1[0-9]{9}(?![\w.])|\d{4}-\d\d-\d\d[ T][\d:.+]+")
STATEMENTS = {MESSAGES, CALLS, CALLS_AFTER_MESSAGES, TURNS, OUTPUTS, RESTS, COMPLETIONS}
CONVERSATIONS: dict[str, tuple[Reply, ...]] = {
    "text": (Reply.text("One two.").costing(prompt=10, completion=5, cached=2, reasoning=1),),
    "nothing": (Reply.text(""),),
    "refusal": (Reply.refusal("No, thank you."),),
    "cut off": (Reply.text("One two three").finishing("length"),),
    "withheld": (Reply.text("One two three").finishing("content_filter"),),
    "call": (Reply.tool_calls(("look_up", {"name": "Ada"})), Reply.text("Ada it is.")),
    "calls": (Reply.tool_calls(("look_up", {"name": "A"}), ("look_up", {"name": "B"})), Reply.text("Both.")),
    "text, then a call": (Reply.text("Let me see.").calling(("look_up", {})), Reply.text("I have seen.")),
    "unknown tool": (Reply.text("Hm.").calling(("no_such_tool", {})), Reply.text("There is none.")),
    "unknown tools": (Reply.tool_calls(("no_such_tool", {}), ("nor_this", {})), Reply.text("There are none.")),
    "call that is cut off": (Reply.tool_calls(("look_up", {})).finishing("length"),),
    "both kinds of calls": (Reply.tool_calls(("look_up", {}), ("no_such_tool", {})), Reply.text("Well.")),
    "trouble": (Reply.error(400, "No."),),
}


class Told:
    """A run that was carried to its end: its rows and its events, without what differs from run to run."""

    def __init__(self, rows: list[list[dict[str, Any]]], events: list[bytes]) -> None:
        known: dict[str, str] = {}

        def plain(text: str) -> str:
            for id_ in IDS.findall(text):
                known.setdefault(id_, f"#{len(known)}")
            return TIMES.sub("0", IDS.sub(lambda found: known[found[0]], text))

        self.events = [plain(event.decode()) for event in events]
        self.rows = [[orjson.loads(plain(orjson.dumps(row, default=str).decode())) for row in kind] for kind in rows]


async def carried(bare: Resources, settings: Settings, project_id: str, database: Database, **fields: Any) -> Told:
    """Carry a run as the database has it, and answer its calls, until it is over."""
    run = await queued(bare, project_id, "Count!", tools=[LOOK], metadata={"of": "a test"}, **fields)
    runner, attempt = Runner(database, bare.model, "9", settings), run.attempt
    while True:
        await asyncio.wait_for(runner.run(run.id, attempt), DEADLINE)
        stands = await found(bare, run.id)
        if stands.required_action is None:
            return Told(await left(bare, run), await told(bare, run.id))
        calls = stands.required_action["submit_tool_outputs"]["tool_calls"]
        outputs = [{"tool_call_id": call["id"], "output": "seen"} for call in calls]
        attempt = await submitted(
            database, project_id, stands, SubmitToolOutputs.model_validate({"tool_outputs": outputs})
        )


async def submitted(database: Database, project_id: str, run: Run, body: SubmitToolOutputs) -> int:
    """Answer a run's calls as the database has it; returns its attempt."""
    if database.direct is not None:
        resumed = await Plain(database, database.direct, 600).submit_tool_outputs(
            project_id, run.thread_id, run.id, body
        )
        assert resumed is not None
        return resumed.run.attempt
    async with database.transaction() as session:
        return (await runs.submit_tool_outputs(session, project_id, run.thread_id, run.id, body)).run.attempt


async def left(bare: Resources, run: Run) -> list[list[dict[str, Any]]]:
    """The run's rows of all tables."""
    kinds: tuple[tuple[type[SQLModel], Any], ...] = (
        (Run, col(Run.id) == run.id),
        (Message, col(Message.run_id) == run.id),
        (RunStep, col(RunStep.run_id) == run.id),
        (RunAttempt, col(RunAttempt.run_id) == run.id),
        (WebhookDelivery, sa.cast(col(WebhookDelivery.data), sa.String).contains(run.id)),
    )
    rows = []
    async with bare.database.transaction() as session:
        for kind, mine in kinds:
            order = getattr(kind, "position", None) or getattr(kind, "attempt", None) or kind.type  # type: ignore[attr-defined]
            found = (await session.execute(sa.select(kind).where(mine).order_by(order))).scalars()
            rows.append([each.model_dump(exclude={"position"}) for each in found])
    return rows


async def told(bare: Resources, run_id: str) -> list[bytes]:
    """The run's events as they were sent."""
    await all_sent(bare)
    entries: Any = await bare.redis.xrange(stream_key(run_id))
    return [frame for _, fields in entries for _, frame in frames.split(fields[b"f"])]


@pytest.mark.parametrize("conversation", CONVERSATIONS)
async def test_a_run_leaves_the_same_rows_and_events_whichever_way_it_is_carried(
    bare: Resources, bare_settings: Settings, project_id: str, scripted: RemoteModelServer, conversation: str
) -> None:
    ways = []
    for direct in (None, Counted(bare.database.direct)) if bare.database.direct else ():
        await asyncio.to_thread(scripted.reset)
        await asyncio.to_thread(scripted.script, *CONVERSATIONS[conversation])
        database = Database(bare.database.engine, bare.database.publisher, direct, webhooks=True)
        ways.append(await carried(bare, bare_settings, project_id, database))

    long, short = ways
    assert short.events == long.events
    assert _different(short.rows, long.rows) == []


@pytest.mark.parametrize(
    ("conversation", "statements"),
    [
        ("text", 3),
        ("call", 3 + 1 + 3),
        ("text, then a call", 4 + 1 + 3),
        ("calls", 3 + 1 + 3),
        ("unknown tool", 5 + 2),
        ("unknown tools", 4 + 2),
        ("both kinds of calls", 5 + 1 + 3),
    ],
)
async def test_a_plain_run_takes_three_statements_and_each_checkpoint_one_more(
    bare: Resources,
    bare_settings: Settings,
    project_id: str,
    scripted: RemoteModelServer,
    conversation: str,
    statements: int,
) -> None:
    assert bare.database.direct is not None
    direct, long_way = Counted(bare.database.direct), 0
    database = Database(bare.database.engine, bare.database.publisher, direct)
    await asyncio.to_thread(scripted.script, *CONVERSATIONS[conversation])

    async def transaction(*_: object) -> None:
        nonlocal long_way
        long_way += 1

    database.tell = transaction  # type: ignore[assignment,method-assign]  # the end of each transaction
    await carried(bare, bare_settings, project_id, database)

    assert (len(direct.statements), long_way) == (statements, 0)


def _different(*both: list[list[dict[str, Any]]]) -> list[tuple[str, Any, Any]]:
    """The columns in which rows differ."""
    short, long = ([row for kind in rows for row in kind] for rows in both)
    pairs = zip(short, long, strict=True)
    return [(name, one[name], other[name]) for one, other in pairs for name in one if one[name] != other[name]]


class Losing(Counted):
    """A statement of a plain line loses its answer: before it was carried out, or after. If `away`, so does the first
    question what has become of it.
    """

    fails = 0
    away = False
    moment: Literal["before", "after"] = "before"
    lines = 0

    async def fetch(self, statement: str, *arguments: Json) -> list[Json]:
        if self.away and self.lines == self.fails and statement == FREE:
            self.away = False
            raise ConnectionRefusedError
        self.lines += statement in STATEMENTS
        failing = statement in STATEMENTS and self.lines == self.fails
        if failing and self.moment == "before":
            raise ConnectionResetError("lost on the way there")
        answer = await super().fetch(statement, *arguments)
        if failing:
            raise ConnectionResetError("lost on the way back")
        return answer


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(("conversation", "wanted"), [("unknown tool", 6), ("text, then a call", 5)])
async def test_whichever_answer_is_lost_a_run_is_carried_once_and_told_once(
    bare: Resources,
    bare_settings: Settings,
    project_id: str,
    scripted: RemoteModelServer,
    conversation: str,
    wanted: int,
    moment: Literal["before", "after"],
) -> None:
    assert bare.database.direct is not None
    seen: list[Told] = []
    lines = fails = 0
    while fails <= lines:
        await asyncio.to_thread(scripted.reset)
        await asyncio.to_thread(scripted.script, *CONVERSATIONS[conversation])
        direct = Losing(bare.database.direct)
        direct.fails, direct.moment = fails, moment
        database = Database(bare.database.engine, bare.database.publisher, direct, webhooks=True)
        seen.append(await carried(bare, bare_settings, project_id, database))
        lines, fails = (direct.lines if fails == 0 else lines), fails + 1

    assert lines == wanted
    assert len(await asyncio.to_thread(scripted.requests)) == 2
    for each in seen[1:]:
        assert each.events == seen[0].events
        assert each.rows == seen[0].rows


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("fails", [1, 2])
async def test_a_worker_that_is_stopped_while_an_answer_is_lost_tells_what_was_written(
    bare: Resources,
    bare_settings: Settings,
    project_id: str,
    scripted: RemoteModelServer,
    fails: int,
    moment: Literal["before", "after"],
) -> None:
    """The run is given back, unless it was over, and its events have no hole."""
    assert bare.database.direct is not None
    await asyncio.to_thread(scripted.script, Reply.text("One two."), Reply.text("One two."))
    run = await queued(bare, project_id, "Count!")
    direct = Losing(bare.database.direct)
    direct.fails, direct.moment, direct.away = fails, moment, True
    database = Stopping(bare.database.engine, bare.database.publisher, direct)
    runner = Runner(database, bare.model, "9", bare_settings)
    database.worker = asyncio.create_task(runner.run(run.id, run.attempt))
    await asyncio.wait([database.worker], timeout=DEADLINE)
    await asyncio.wait_for(Runner(bare.database, bare.model, "10", bare_settings).run(run.id), DEADLINE)

    assert (await found(bare, run.id)).status == "completed"
    cursors = [frames.first_cursor(frame) for frame in await told(bare, run.id)]
    for attempt in {cursor.attempt for cursor in cursors}:
        numbers = [cursor.seq for cursor in cursors if cursor.attempt == attempt]
        assert numbers == list(range(1, len(numbers) + 1))
    names = [frames.last_event(frame) for frame in await told(bare, run.id)]
    assert names.count("thread.run.completed") == 1
    assert names.count("thread.message.created") == names.count("thread.message.completed") + names.count(
        "thread.message.incomplete"
    )


class Late(Counted):
    """A statement that opens messages leaves late."""

    def __init__(self, direct: Direct) -> None:
        super().__init__(direct)
        self.asked, self.leaves = asyncio.Event(), asyncio.Event()

    async def fetch(self, statement: str, *arguments: Json) -> list[Json]:
        if statement == MESSAGES:
            self.asked.set()
            await self.leaves.wait()
        return await super().fetch(statement, *arguments)


async def test_a_worker_that_is_stopped_while_a_statement_is_under_way_tells_what_it_has_done(
    bare: Resources, bare_settings: Settings, project_id: str, scripted: RemoteModelServer
) -> None:
    assert bare.database.direct is not None
    await asyncio.to_thread(scripted.script, Reply.text("One two."))
    run = await queued(bare, project_id, "Count!")
    direct = Late(bare.database.direct)
    runner = Runner(Database(bare.database.engine, bare.database.publisher, direct), bare.model, "9", bare_settings)
    worker = asyncio.create_task(runner.run(run.id, run.attempt))
    await asyncio.wait_for(direct.asked.wait(), DEADLINE)

    worker.cancel()
    await asyncio.sleep(0)
    direct.leaves.set()
    await asyncio.wait([worker], timeout=DEADLINE)

    assert worker.cancelled()
    names = [frames.last_event(frame) for frame in await told(bare, run.id)]
    assert names[-5:] == [
        "thread.run.step.in_progress",
        "thread.message.created",
        "thread.message.in_progress",
        "thread.message.incomplete",
        "thread.run.step.failed",
    ]


class Stopping(Database):
    """The worker is stopped as soon as the database is asked for again."""

    worker: "asyncio.Task[None]"

    async def back(self) -> bool:
        self.worker.cancel()
        await asyncio.sleep(DEADLINE)
        return True


@pytest.fixture(autouse=True)
async def no_deliveries_are_left(bare: Resources) -> AsyncIterator[None]:
    yield
    async with bare.database.transaction() as session:
        await session.execute(sa.delete(WebhookDelivery))
