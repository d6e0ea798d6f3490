"""Outputs that go the short way: they do what they do on the long one, or nothing."""

import asyncio
import re
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa
from sqlmodel import col

from orchestrator import runs
from orchestrator.bounds import Bounds
from orchestrator.db import Database
from orchestrator.plain.verbs import Plain
from orchestrator.resources import Resources
from orchestrator.tables import Run
from orchestrator.wire import objects
from orchestrator.wire.requests import SubmitToolOutputs
from tests.integration.short_way import Refused, ShortWay, alike, outputs
from tests.life.stage import Post

Json = Any


@pytest_asyncio.fixture
async def scene(bare: Resources, project_id: str) -> ShortWay:
    return await ShortWay.to_a_new_thread(bare, project_id)


@pytest.fixture
def plain(scene: ShortWay) -> Plain:
    return scene.plain()


ANSWERS: dict[str, tuple[tuple[str, ...], tuple[str, ...], dict[str, str | None]]] = {
    "one": (("call_a",), (), {"call_a": "Sunny."}),
    "in another order": (("call_b", "call_a"), (), {"call_a": '{"ä": "☃ \\u2028\\n"}', "call_b": ""}),
    "nothing": (("call_a", "call_b"), (), {"call_a": None, "call_b": "x" * 10_000}),
    "beside the server's": (("call_c", "call_a"), ("call_b",), {"call_a": "A", "call_c": "C"}),
    "many": (tuple(f"call_{n}" for n in range(40)), (), {f"call_{n}": f"{n}" for n in range(40)}),
}
"""The calls, those that the server has answered before, and what the client says."""
SHARED = re.compile(r"(?:run|step|thread|asst)_[0-9A-Za-z]+|\"(?:\w+_at)\":\d+")


class Sent(Post):
    """What was told, and the wake-ups."""

    def __init__(self) -> None:
        super().__init__()
        self.pushed: list[str] = []

    def push(self, queue: str, message: bytes) -> None:
        self.pushed.append(f"{queue} {message.decode()}")

    def of(self, run: Run) -> list[str]:
        """The events, without what no two runs share."""
        return [SHARED.sub("", frame.data.decode()) for frame in self.told if frame.run_id == run.id]


@pytest.mark.parametrize("name", ANSWERS)
async def test_outputs_are_stored_shown_and_told_as_on_the_long_way(scene: ShortWay, name: str) -> None:
    calls, answered, said = ANSWERS[name]
    given = [{"tool_call_id": id_, "output": output} for id_, output in said.items()]
    body = SubmitToolOutputs.model_validate({"tool_outputs": given})
    here, there = [await scene.asking(*calls, answered=answered) for _ in range(2)]
    sent, engine = (Sent(), Sent()), scene.bare.database.engine
    async with Database(engine, sent[0]).transaction() as session:
        long = await runs.submit_tool_outputs(session, scene.project_id, here.thread_id, here.id, body)

    plain = scene.plain(Database(engine, sent[1]))
    short = await plain.submit_tool_outputs(scene.project_id, there.thread_id, there.id, body)

    assert short is not None
    alike(objects.run(short.run), objects.run(long.run))
    assert short.cursor == long.cursor
    rows = await scene.stored(there.thread_id)
    assert rows == await scene.stored(here.thread_id)
    outputs = [call["function"]["output"] for call in rows["steps"][0]["step_details"]["tool_calls"]]
    assert outputs == [*("The worker's." for _ in answered), *(said[id_] or "" for id_ in calls)]
    assert sent[1].of(there) == sent[0].of(here)
    assert [short.step_id in frame.data.decode() for frame in sent[1].told] == [True, False]
    for post, run in zip(sent, (long.run, short.run), strict=True):
        assert [f"('{run.id}', {run.attempt})" in message for message in post.pushed] == [True]


WRONG = {
    "one of two": ("call_a",),
    "one too many": ("call_a", "call_b", "call_c"),
    "a stranger": ("call_a", "call_c"),
    "one twice": ("call_a", "call_b", "call_a"),
    "none": (),
}


@pytest.mark.parametrize("calls", WRONG.values(), ids=WRONG)
async def test_outputs_of_other_calls_are_left_to_the_long_way(
    scene: ShortWay, plain: Plain, calls: tuple[str, ...]
) -> None:
    run = await scene.asking("call_a", "call_b")
    before = await scene.stored(run.thread_id)

    assert await plain.submit_tool_outputs(scene.project_id, run.thread_id, run.id, outputs(*calls)) is None

    assert await scene.stored(run.thread_id) == before


async def test_calls_that_share_an_id_are_left_to_the_long_way(scene: ShortWay, plain: Plain) -> None:
    run = await scene.asking("call_a", "call_a")

    for calls in (("call_a",), ("call_a", "call_b"), ("call_a", "call_a")):
        assert await plain.submit_tool_outputs(scene.project_id, run.thread_id, run.id, outputs(*calls)) is None


async def test_a_run_that_does_not_wait_for_outputs_is_left_to_the_long_way(scene: ShortWay, plain: Plain) -> None:
    body = outputs("call_a")
    waiting, others = await scene.asking("call_a"), await scene.asking("call_a")
    queued = await scene.create()
    locked = sa.select(Run).where(col(Run.id) == waiting.id).with_for_update(key_share=True)
    asked = [
        (scene.project_id, scene.thread_id, queued.id),
        (scene.project_id, waiting.thread_id, "run_x"),
        (scene.project_id, scene.thread_id, waiting.id),
        ("proj_x", waiting.thread_id, waiting.id),
        (scene.project_id, waiting.thread_id, waiting.id),
        (scene.project_id, others.thread_id, others.id),
    ]
    async with scene.bare.database.transaction() as session:
        await session.execute(locked)
        found = await asyncio.gather(*(plain.submit_tool_outputs(*each, body) for each in asked))

    assert [each and each.run.id for each in found] == [*[None] * 5, others.id]


@pytest.mark.parametrize("bounds", [Bounds(project=129), Bounds(project=5), Bounds(project=1000, upstream=129)])
async def test_where_places_are_scarce_a_run_asks_for_one_on_the_long_way(scene: ShortWay, bounds: Bounds) -> None:
    database = scene.bare.database
    plain = scene.plain(Database(database.engine, database.publisher, database.direct, bounds=bounds))
    run = await scene.asking("call_a")
    await scene.create()  # one place is held

    assert await plain.submit_tool_outputs(scene.project_id, run.thread_id, run.id, outputs("call_a")) is None


async def test_while_runs_wait_for_a_place_none_comes_back_before_them(scene: ShortWay, plain: Plain) -> None:
    run, waiting = await scene.asking("call_a"), await scene.create()
    await scene.set_(waiting, placed=False)
    try:
        assert await plain.submit_tool_outputs(scene.project_id, run.thread_id, run.id, outputs("call_a")) is None
    finally:
        await scene.set_(waiting, placed=True)


async def test_outputs_in_a_statement_that_is_refused_take_the_long_way(scene: ShortWay) -> None:
    run = await scene.asking("call_a")
    async with Refused(scene.bare.settings).opened() as refused:
        plain = scene.plain(direct=refused)

        assert await plain.submit_tool_outputs(scene.project_id, run.thread_id, run.id, outputs("call_a")) is None
