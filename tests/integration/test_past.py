"""What is read of a thread: what fits into the prompt, from both ends, by index scans, in a handful of statements."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from orchestrator import assistants, closing, runs, threads
from orchestrator.db import Database
from orchestrator.execution import past as pasts
from orchestrator.execution.conversation import tell
from orchestrator.execution.past import Past
from orchestrator.resources import Resources
from orchestrator.tables import Message, Run, RunStep
from orchestrator.wire.objects import text_part
from orchestrator.wire.requests import CreateAssistant, CreateRun
from tests.integration import crowd

Item = Message | RunStep
WINDOW = 128_000
ROOM = 20_000
MANY = """
WITH place AS MATERIALIZED (SELECT setval('positions', nextval('positions') + 2 * :many) - 2 * :many AS first),
steps AS (
    INSERT INTO run_steps
        (id, position, run_id, thread_id, assistant_id, created_at, type, status, step_details, metadata)
    SELECT :thread || '_' || n, first + 2 * n + 1, :run, :thread, '', 0, 'tool_calls', 'completed', '{}', '{}'
    FROM place, generate_series(1, :many, 2) n
)
INSERT INTO messages (id, position, thread_id, created_at, role, status, content, attachments, metadata)
SELECT :thread || '_' || n, first + 2 * n, :thread, 0, 'user', 'completed',
    json_build_array(json_build_object('type', 'text', 'text', json_build_object('value', 'one two three four ' || n))),
    '[]', '{}'
FROM place, generate_series(1, :many) n
"""
"""Messages, with a turn of (no) calls after every second one."""


def said(text: str, role: str = "user", **fields: Any) -> Message:
    """A message; its thread is filled in."""
    return Message(thread_id="", role=role, content=[text_part(text)], **fields)


def called(output: str = "sunny") -> RunStep:
    """A turn with a call of an earlier run; the run is filled in."""
    function = {"name": "f", "arguments": "{}", "output": output}
    details = {"type": "tool_calls", "tool_calls": [{"id": "call_1", "type": "function", "function": function}]}
    return RunStep(
        run_id="", thread_id="", assistant_id="", type="tool_calls", status="completed", step_details=details
    )


async def run_after(bare: Resources, project_id: str, *history: Item, many: int = 0, **fields: Any) -> Run:
    """A run on a new thread that holds `many` messages of ten tokens, and then this history."""
    async with bare.database.transaction() as session:
        assistant = await assistants.create(session, project_id, CreateAssistant(model="gpt-4o"))
        thread = await threads.create(session, project_id, None)
        plain = CreateRun(assistant_id=assistant.id)
        earlier = await runs.create(session, project_id, thread.id, plain, lifetime=600)
        await closing.end(session, earlier, "expired", attempt="next")
        await session.execute(sa.text(MANY), {"thread": thread.id, "run": earlier.id, "many": many})
        for item in history:
            item.thread_id = thread.id
            if isinstance(item, RunStep):
                item.run_id, item.assistant_id = earlier.id, assistant.id
            session.add(item)
            await session.flush()
        body = CreateRun.model_validate({"assistant_id": assistant.id, **fields})
        return await runs.create(session, project_id, thread.id, body, lifetime=600)


async def begun(bare: Resources, run: Run, window: int = WINDOW, *, short: bool = False) -> Past:
    """The past of a run, as it is when the run has been claimed. Further pages may be read the short way."""
    database = bare.database if short else Database(bare.database.engine, bare.database.publisher)
    past = Past(database, run, window)
    async with bare.database.transaction() as session:
        await past.begin(session)
    return past


async def told(bare: Resources, run: Run, room: int = ROOM, *, short: bool = False) -> list[Any]:
    """The messages that a model would be told in so much room."""
    return tell(await (await begun(bare, run, short=short)).within(room))


@contextmanager
def statements(bare: Resources) -> Iterator[list[tuple[str, Any]]]:
    """The statements that are sent within the block, with their parameters."""
    seen: list[tuple[str, Any]] = []

    def hear(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        seen.append((statement, parameters))

    engine = bare.database.engine.sync_engine
    sa.event.listen(engine, "before_cursor_execute", hear)
    try:
        yield seen
    finally:
        sa.event.remove(engine, "before_cursor_execute", hear)


async def plans(bare: Resources, seen: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    """How Postgres carries these statements out: the nodes that scan tables, with the rows that they read."""
    found: list[dict[str, Any]] = []
    async with bare.database.engine.connect() as connection:
        for statement, parameters in seen:
            if statement.startswith("SET"):
                await connection.exec_driver_sql(statement)
                continue
            explained = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
            node = explained.scalar_one()[0]["Plan"]
            while "Plans" in node:
                (node,) = node["Plans"]
            found.append(node)
    return found


async def test_of_a_long_thread_only_its_ends_are_read_by_index(crowded: Resources) -> None:
    run = await run_after(crowded, crowd.ANOTHER, said("Newest"), many=20_000)
    await crowd.analyse(crowded.database)

    with statements(crowded) as seen:
        messages = await told(crowded, run)

    scans = await plans(crowded, seen)
    assert len(scans) <= 8
    assert all(scan["Node Type"] == "Index Scan" for scan in scans), scans
    assert sum(scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0) for scan in scans) < 2 * len(messages)
    assert [message["content"][:27] for message in messages[:2]] == [
        "one two three four 1",
        "one two three four 2",
    ]
    assert messages[-1]["content"] == "Newest"
    assert 1_500 < len(messages) < 2_500


async def test_further_pages_take_no_transaction_on_the_short_way(bare: Resources, project_id: str) -> None:
    run = await run_after(bare, project_id, said("Newest"), called(), many=1_000)
    past = await begun(bare, run, short=True)

    with statements(bare) as seen:
        messages = tell(await past.within(5_000))

    assert not seen
    assert messages == await told(bare, run, 5_000)


async def test_a_short_thread_is_read_at_once_and_not_counted(bare: Resources, project_id: str) -> None:
    run = await run_after(bare, project_id, said("One"), said("Two"))

    with statements(bare) as seen:
        past = await begun(bare, run)

    assert len(seen) == 3
    assert past.bound is not None
    assert [message["content"] for message in tell(past.all())] == ["One", "Two"]
    assert [unit.size for unit in past.all()] == [None, None]


async def test_what_was_read_once_is_not_read_again(bare: Resources, project_id: str) -> None:
    past = await begun(bare, await run_after(bare, project_id, many=500), window=8_192)
    first = tell(await past.within(2_000))

    with statements(bare) as seen:
        again = tell(await past.within(2_000))
        less = tell(await past.within(500))

    assert again == first
    assert not seen
    assert len(less) < len(first)
    assert less[-1] == first[-1]


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("page", [1, 2, 3, 7])
async def test_whatever_the_pages_are_the_thread_is_told_whole_and_in_order(
    bare: Resources, project_id: str, monkeypatch: pytest.MonkeyPatch, page: int, short: bool
) -> None:
    for name in ("SMALLEST_PAGE", "FIRST_PAGE", "LARGEST_PAGE"):
        monkeypatch.setattr(pasts, name, page)
    history: list[Item] = [called("before all")]
    for number in range(6):
        history += [said(f"question {number}"), *[called(f"{number}.{call}") for call in range(number)]]
        history.append(said(f"answer {number}", "assistant"))
    run = await run_after(bare, project_id, *history)

    messages = await told(bare, run, 10_000_000, short=short)

    spoken = [message["content"] for message in messages if message["role"] != "assistant" or message["content"]]
    expected = ["before all"]
    for number in range(6):
        expected += [f"question {number}", *[f"{number}.{call}" for call in range(number)], f"answer {number}"]
    assert spoken == expected


async def test_calls_come_with_their_outputs_or_not_at_all(bare: Resources, project_id: str) -> None:
    history: list[Item] = []
    for number in range(40):
        history += [said(f"question {number}"), called("long output " * (number * 7 % 50)), said("answer", "assistant")]
    run = await run_after(bare, project_id, *history)

    for room in range(0, 6_000, 500):
        messages = await told(bare, run, room)
        asked = [message for message in messages if message.get("tool_calls")]
        answered = [message for message in messages if message["role"] == "tool"]
        assert len(asked) == len(answered)
        for place, message in enumerate(messages):
            assert message["role"] != "tool" or messages[place - 1].get("tool_calls")


async def test_case_49_torn_messages_are_not_among_the_last_ones(bare: Resources, project_id: str) -> None:
    torn: dict[str, Any] = {"status": "incomplete", "incomplete_details": {"reason": "run_failed"}}
    cancelled: dict[str, Any] = {"status": "incomplete", "incomplete_details": {"reason": "run_cancelled"}}
    last: dict[str, Any] = {"truncation_strategy": {"type": "last_messages", "last_messages": 2}}
    history = [said("Old"), said("It was", "assistant", **cancelled)]
    history += [said("Half a", "assistant", **torn) for _ in range(5)]
    history += [said("New"), said("", "assistant")]
    run = await run_after(bare, project_id, *history, **last)

    assert [message["content"] for message in await told(bare, run)] == ["It was", "New"]


async def test_case_49_last_messages_read_no_more_than_they_are_and_drop_the_oldest_that_do_not_fit(
    bare: Resources, project_id: str
) -> None:
    last: dict[str, Any] = {"truncation_strategy": {"type": "last_messages", "last_messages": 50}}
    run = await run_after(bare, project_id, said("Newest"), many=1_000, **last)

    with statements(bare) as seen:
        messages = await told(bare, run)
    less = await told(bare, run, 105)

    assert [message["content"][-4:] for message in (messages[0], messages[-1])] == [" 952", "west"]
    assert len(messages) == 50
    assert len(seen) == 3
    assert less == messages[-len(less) :]
    assert len(less) == 12


async def test_a_thread_of_very_short_messages_is_told_up_to_a_bound(
    bare: Resources, project_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pasts, "MOST", 300)
    run = await run_after(bare, project_id, many=2_000)

    messages = await told(bare, run, 1_000_000)

    assert 300 <= len(messages) < 1_500
    assert messages[0]["content"].endswith(" 1")
    assert messages[-1]["content"].endswith(" 2000")


async def test_a_thread_of_heavy_messages_is_read_as_far_as_memory_allows(
    bare: Resources, project_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images come as data within messages, too: a hundred of ten megabytes would kill one worker after the other."""
    monkeypatch.setattr(pasts, "HEAVIEST", 100_000)
    run = await run_after(bare, project_id, *[said(f"{n} {secrets.token_hex(15_000)}") for n in range(10)])

    past = await begun(bare, run)
    first = [message["content"][:1] for message in tell(past.all())]
    messages = await past.within(10_000_000)

    assert first == ["7", "8", "9"]
    assert past.bound is None
    assert [message["content"][:1] for message in tell(messages)] == ["0", "7", "8", "9"]


async def test_the_newest_message_is_read_however_heavy_it_and_the_calls_behind_it_are(
    bare: Resources, project_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pasts, "HEAVIEST", 10_000)
    history: list[Item] = [said("Old"), said(f"Newest {secrets.token_hex(15_000)}")]
    history += [called(f"{n} {secrets.token_hex(15_000)}") for n in range(3)]
    run = await run_after(bare, project_id, *history)

    messages = await told(bare, run, 10_000_000)

    said_or_heard = [message["content"] for message in messages if message["content"]]
    assert [text.split()[0] for text in said_or_heard] == ["Old", "Newest", "0", "1", "2"]


async def test_only_a_further_attempt_asks_for_what_the_run_has_said_itself(bare: Resources, project_id: str) -> None:
    run = await run_after(bare, project_id, said("Hi"))
    mine = said("Mine", "assistant", run_id=run.id)
    mine.thread_id = run.thread_id
    async with bare.database.transaction() as session:
        session.add(mine)
    async with bare.database.transaction() as session:
        with statements(bare) as seen:
            first = await pasts.own(session, run.model_copy(update={"attempt": 1}))
        again = await pasts.own(session, run.model_copy(update={"attempt": 2}))

    assert (first, seen) == ([], [])
    assert [item.id for item in again] == [mine.id]
    assert [message["content"] for message in await told(bare, run)] == ["Hi"]
