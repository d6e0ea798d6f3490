"""The short way does what the long way does, in the plain case; in any other it does nothing."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa

from orchestrator import lifecycle, messages, runs
from orchestrator.bounds import Bounds
from orchestrator.db import Database
from orchestrator.plain.verbs import Plain
from orchestrator.resources import Resources
from orchestrator.tables import Message
from orchestrator.wire import objects
from orchestrator.wire.requests import (
    CreateMessage,
    CreateRun,
    CreateThread,
    CreateThreadAndRun,
    ListMessagesQuery,
    ListQuery,
)
from tests.integration.short_way import HI, Refused, ShortWay, alike

Json = Any

SAID: dict[str, Json] = {
    "nothing": {},
    "nulls": {"model": None, "tools": None, "instructions": None, "metadata": None, "response_format": None},
    "instructions": {"instructions": "Be brief."},
    "no instructions": {"instructions": ""},
    "all": {
        "model": "gpt-4.1",
        "tools": [{"type": "function", "function": {"name": "b", "parameters": {"b": 1, "a": 2}}}],
        "temperature": 0,
        "top_p": 0.25,
        "reasoning_effort": "low",
        "response_format": {"type": "json_object"},
        "truncation_strategy": {"type": "last_messages", "last_messages": 3},
        "tool_choice": {"type": "function", "function": {"name": "b"}},
        "parallel_tool_calls": False,
        "max_prompt_tokens": 1000,
        "max_completion_tokens": 2000,
        "metadata": {"ä": "ö", "a": '"'},
        "instructions": "Be\n\nbrief: ☃ \\u2028.",
    },
}
MESSAGES: Json = [
    {"role": "user", "content": "One"},
    {"role": "assistant", "content": [{"type": "text", "text": "Two"}], "metadata": {"k": "v"}},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}]},
]
ADDED: dict[str, Json] = {
    "nothing": {},
    "nulls": {"additional_instructions": None, "additional_messages": None, "on_active_run": None},
    "instructions": {"additional_instructions": "And quick."},
    "no instructions": {"additional_instructions": "And quick.", "additional_messages": []},
    "all": {"additional_instructions": "", "additional_messages": MESSAGES},
}
"""To a run on a thread that is there."""
THREADS: dict[str, Json] = {
    "nothing": None,
    "nulls": {"tool_resources": None, "metadata": None, "on_active_run": None},
    "instructions": {},
    "no instructions": {"messages": MESSAGES},
    "all": {
        "messages": MESSAGES,
        "metadata": {"k": "v"},
        "on_active_run": "enqueue",
        "tool_resources": {"code_interpreter": {"file_ids": []}},
    },
}


@pytest_asyncio.fixture
async def scene(bare: Resources, project_id: str) -> ShortWay:
    return await ShortWay.to_a_new_thread(bare, project_id)


@pytest.fixture
def plain(scene: ShortWay) -> Plain:
    return scene.plain()


# -- what it does is what the long way does --


@pytest.mark.parametrize("said", SAID)
async def test_a_run_is_stored_and_shown_as_on_the_long_way(scene: ShortWay, plain: Plain, said: str) -> None:
    body = CreateRun.model_validate({"assistant_id": scene.assistant_id, **SAID[said], **ADDED[said]})
    there = await scene.another()
    async with scene.bare.database.transaction() as session:
        long = await runs.create(session, scene.project_id, there, body, lifetime=600)

    made = await plain.create_run(scene.project_id, scene.thread_id, body)

    assert made is not None
    alike(objects.run(made.run), objects.run(long))
    assert made.data == objects.dump(objects.run(made.run))
    assert made.run.expires_at - made.run.created_at == 600
    assert await scene.stored(scene.thread_id) == await scene.stored(there)


@pytest.mark.parametrize("said", SAID)
async def test_a_thread_and_its_run_are_stored_as_on_the_long_way(scene: ShortWay, plain: Plain, said: str) -> None:
    thread = THREADS[said]
    body = CreateThreadAndRun.model_validate({"assistant_id": scene.assistant_id, "thread": thread, **SAID[said]})
    async with scene.bare.database.transaction() as session:
        long = await runs.create_with_thread(session, scene.project_id, body, lifetime=600)

    made = await plain.create_thread_and_run(scene.project_id, body)

    assert made is not None
    alike(objects.run(made.run), objects.run(long))
    assert await scene.stored(made.run.thread_id) == await scene.stored(long.thread_id)


@pytest.mark.parametrize(
    "content",
    ["Hi", "", [{"type": "text", "text": "One"}, {"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}]],
)
async def test_a_message_is_stored_and_shown_as_on_the_long_way(scene: ShortWay, plain: Plain, content: Json) -> None:
    body = CreateMessage.model_validate({"role": "user", "content": content, "metadata": {"z": "1", "a": "☃"}})
    there = await scene.another()
    async with scene.bare.database.transaction() as session:
        long = await messages.create(session, scene.project_id, there, body)

    made = await plain.add_message(scene.project_id, scene.thread_id, body)

    assert made is not None
    alike(objects.message(made), objects.message(long))
    async with scene.bare.database.transaction() as session:
        stored = await messages.retrieve(session, scene.project_id, scene.thread_id, made.id)
    assert objects.message(stored) == objects.message(made)
    assert await scene.stored(scene.thread_id) == await scene.stored(there)


async def test_requests_that_come_together_are_each_answered(scene: ShortWay, plain: Plain) -> None:
    texts = [f"Number {number}" for number in range(150)]
    bodies = [CreateMessage(role="user", content=text) for text in texts]

    made = await asyncio.gather(*(plain.add_message(scene.project_id, scene.thread_id, body) for body in bodies))

    assert [message and message.content[0]["text"]["value"] for message in made] == texts
    assert sorted(await scene.said()) == sorted(texts)


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_are_those_of_the_long_way(scene: ShortWay, plain: Plain, order: str) -> None:
    made = [await plain.add_message(scene.project_id, scene.thread_id, HI) for _ in range(7)]
    ids = [message.id for message in made if message]
    cursors: list[Json] = [{}, {"after": ids[3], "before": ids[-1]}, {"after": ids[-1], "before": ids[3]}]
    cursors += [{key: ids[place]} for key in ("after", "before") for place in (0, 3, -1)]

    for cursor in cursors:
        for limit in (1, 3, 100):
            query = ListMessagesQuery.model_validate({"order": order, "limit": limit, **cursor})
            found = await plain.list_messages(scene.project_id, scene.thread_id, query)
            async with scene.bare.database.transaction() as session:
                long, more = await messages.list_(session, scene.project_id, scene.thread_id, query)
            assert shown(found) == ([objects.message(row) for row in long], more), (cursor, limit)


def shown(found: tuple[list[Message], bool] | None) -> Json:
    """A page as the wire's; what is not found on the short way is empty on the long one."""
    return ([], False) if found is None else ([objects.message(row) for row in found[0]], found[1])


async def test_a_list_of_a_run_and_one_of_runs_are_those_of_the_long_way(scene: ShortWay, plain: Plain) -> None:
    await plain.add_message(scene.project_id, scene.thread_id, HI)
    run = await scene.create()

    nobodys = await plain.list_messages(scene.project_id, scene.thread_id, ListMessagesQuery(run_id=run.id))
    strange = await plain.list_messages(scene.project_id, scene.thread_id, ListMessagesQuery(after="msg_x"))
    others = await plain.list_messages("proj_x", scene.thread_id, ListMessagesQuery())
    listed = await plain.list_runs(scene.project_id, scene.thread_id, ListQuery())

    assert (nobodys, strange, others) == (None, None, None)
    assert listed is not None
    assert [objects.run(row) for row in listed[0]] == [objects.run(run)]


async def test_runs_are_retrieved_together_each_by_its_own_ids(scene: ShortWay, plain: Plain) -> None:
    first = await scene.create()
    second = await scene.create()
    mine, thread_id = scene.project_id, scene.thread_id
    asked = [(mine, thread_id, first.id), (mine, thread_id, "run_x"), (mine, thread_id, second.id)]
    asked += [("proj_x", thread_id, first.id), (mine, await scene.another(), first.id), (mine, thread_id, first.id)]

    found = await asyncio.gather(*(plain.retrieve_run(*each) for each in asked))

    assert [run and run.id for run in found] == [first.id, None, second.id, None, None, first.id]
    assert found[0] is not None
    assert objects.run(found[0]) == objects.run(first)


async def test_a_run_that_cannot_be_read_is_no_trouble_for_those_that_are_retrieved_with_it(
    scene: ShortWay, plain: Plain
) -> None:
    good, bad = await scene.create(), await scene.create()
    await scene.set_(bad, tools=sa.text("""'["\\ud800"]'"""))

    found = await asyncio.gather(
        *(plain.retrieve_run(scene.project_id, scene.thread_id, run.id) for run in (good, bad, good))
    )

    assert [run and run.id for run in found] == [good.id, None, good.id]


# -- in any other case it does nothing --


@pytest_asyncio.fixture(params=["a run is active", "the thread is locked", "the thread is another project's"])
async def trouble(request: pytest.FixtureRequest, scene: ShortWay, bare: Resources) -> AsyncIterator[str]:
    """The project that asks, while the thread is not plain."""
    if request.param == "the thread is another project's":
        yield "proj_other"
    elif request.param == "a run is active":
        await scene.create()
        yield scene.project_id
    else:
        async with bare.database.transaction() as session:
            await lifecycle.lock_thread(session, scene.thread_id)
            yield scene.project_id


async def test_a_thread_that_is_not_plain_stays_as_it_is(scene: ShortWay, plain: Plain, trouble: str) -> None:
    before = await scene.stored(scene.thread_id)
    body = CreateRun(assistant_id=scene.assistant_id, additional_messages=[HI])

    assert await plain.add_message(trouble, scene.thread_id, HI) is None
    assert await plain.create_run(trouble, scene.thread_id, body) is None

    assert await scene.stored(scene.thread_id) == before


async def test_without_its_assistant_nothing_is_made(scene: ShortWay, plain: Plain) -> None:
    body: Json = {"assistant_id": "asst_x"}

    assert await plain.create_run(scene.project_id, scene.thread_id, CreateRun(**body)) is None
    assert await plain.create_thread_and_run(scene.project_id, CreateThreadAndRun(**body)) is None
    assert await plain.create_thread_and_run("proj_other", CreateThreadAndRun(assistant_id=scene.assistant_id)) is None

    assert await scene.all() == []


async def test_a_message_with_files_takes_the_long_way(scene: ShortWay, plain: Plain) -> None:
    attached = CreateMessage.model_validate({"role": "user", "content": "x", "attachments": [{"file_id": "file-x"}]})
    shown = CreateMessage.model_validate(
        {"role": "user", "content": [{"type": "image_file", "image_file": {"file_id": "file-x"}}]}
    )
    for body in (attached, shown):
        run = CreateRun(assistant_id=scene.assistant_id, additional_messages=[body])
        new = CreateThreadAndRun(assistant_id=scene.assistant_id, thread=CreateThread(messages=[body]))

        assert await plain.add_message(scene.project_id, scene.thread_id, body) is None
        assert await plain.create_run(scene.project_id, scene.thread_id, run) is None
        assert await plain.create_thread_and_run(scene.project_id, new) is None


@pytest.mark.parametrize("bounds", [Bounds(project=129), Bounds(project=5), Bounds(project=1000, upstream=129)])
async def test_where_places_are_scarce_they_are_given_one_by_one(
    scene: ShortWay, bare: Resources, bounds: Bounds
) -> None:
    house = Database(bare.database.engine, bare.database.publisher, bare.database.direct, bounds=bounds)
    plain, body = scene.plain(house), CreateRun(assistant_id=scene.assistant_id)
    new = CreateThreadAndRun(assistant_id=scene.assistant_id)
    there = await scene.another()
    await scene.create()  # one place is held

    assert await plain.create_run(scene.project_id, there, body) is None
    assert await plain.create_thread_and_run(scene.project_id, new) is None


async def test_while_runs_wait_for_a_place_nobody_passes_them(scene: ShortWay, plain: Plain) -> None:
    run = await scene.create()
    await scene.set_(run, placed=False)
    there = await scene.another()
    try:
        assert await plain.create_run(scene.project_id, there, CreateRun(assistant_id=scene.assistant_id)) is None
    finally:
        await scene.set_(run, placed=True)


async def test_a_statement_that_is_refused_sends_everybody_the_long_way(scene: ShortWay, bare: Resources) -> None:
    async with Refused(bare.settings).opened() as refused:
        plain = scene.plain(direct=refused)

        added = await plain.add_message(scene.project_id, scene.thread_id, HI)
        made = await plain.create_run(scene.project_id, scene.thread_id, CreateRun(assistant_id=scene.assistant_id))

    assert (added, made) == (None, None)
    assert await scene.all() == []
