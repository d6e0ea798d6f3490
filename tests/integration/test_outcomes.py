"""What is told of a run from Postgres to a listener of whose events Redis has lost some."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa
from sqlmodel import col

from orchestrator import runs
from orchestrator.events import frames
from orchestrator.events.follower import Follower
from orchestrator.events.frames import START, Cursor
from orchestrator.events.listener import PING
from orchestrator.events.publisher import stream_key
from orchestrator.execution.runner import Runner
from orchestrator.outcomes import outcome_of
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.tables import Run, RunStep
from orchestrator.wire.requests import SubmitToolOutputs
from tests.api.checks import Event, parse
from tests.fakes.model_control import RemoteModelServer
from tests.fakes.replies import Reply
from tests.integration.scene import all_sent
from tests.integration.test_runner import DEADLINE, found, queued, scripted

__all__ = ["scripted"]

FUNCTION = {"type": "function", "function": {"name": "look_up"}}
ANSWERED = [
    "run.step.completed",
    *("run.step.created", "run.step.in_progress"),
    *("message.created", "message.in_progress", "message.delta", "message.completed"),
    "run.step.completed",
    "run.completed",
]
"""What follows the outputs of a function's call."""


class Resumed:
    """A run that said something, asked for outputs, got them, and is completed."""

    def __init__(self, run: Run, cursor: Cursor, step_id: str) -> None:
        self.run = run
        self.cursor = cursor
        self.step_id = step_id


@pytest_asyncio.fixture
async def resumed(
    bare: Resources, bare_settings: Settings, project_id: str, scripted: RemoteModelServer
) -> AsyncIterator[Resumed]:
    asks = Reply.text("Let me see.").calling(("look_up", {}))
    await asyncio.to_thread(scripted.script, asks, Reply.text("It rains."))
    run = await queued(bare, project_id, "Weather?", tools=[FUNCTION])
    runner = Runner(bare.database, bare.model, "9", bare_settings)
    await asyncio.wait_for(runner.run(run.id), DEADLINE)
    action = (await found(bare, run.id)).required_action
    assert action is not None
    call_id = action["submit_tool_outputs"]["tool_calls"][0]["id"]
    outputs = SubmitToolOutputs.model_validate({"tool_outputs": [{"tool_call_id": call_id, "output": "42"}]})
    async with bare.database.transaction() as session:
        given = await runs.submit_tool_outputs(session, project_id, run.thread_id, run.id, outputs)
    await asyncio.wait_for(runner.run(run.id), DEADLINE)
    await all_sent(bare)
    yield Resumed(run, given.cursor, given.step_id)


async def heard(bare: Resources, resumed: Resumed) -> list[Event]:
    """What the listener is told that came with the outputs."""
    follower = Follower(bare.subscriber, outcome_of(bare.database), bare.settings)
    async with asyncio.timeout(DEADLINE):
        stream = follower.follow(resumed.run.id, resumed.cursor, resumed.step_id)
        return parse(b"".join([batch async for batch in stream if batch != PING]).decode())


async def test_a_listener_that_came_with_outputs_hears_what_followed_them(bare: Resources, resumed: Resumed) -> None:
    events = [event for event in await heard(bare, resumed) if "queued" not in event.name]

    names = [event.name.removeprefix("thread.") for event in events]
    assert [name for name in names if name != "run.in_progress" and name != "message.delta"] == [
        name for name in ANSWERED if name != "message.delta"
    ]


@pytest.mark.parametrize("lost", ["all", "what followed the outputs"])
async def test_a_listener_that_came_with_outputs_hears_from_postgres_what_followed_them_and_nothing_again(
    bare: Resources, resumed: Resumed, lost: str
) -> None:
    key = stream_key(resumed.run.id)
    if lost == "all":
        await bare.redis.delete(key)
    else:
        entries: Any = await bare.redis.xrange(key, min=f"({resumed.cursor}")
        for id_, _ in entries:
            await bare.redis.xdel(key, id_)

    events = await heard(bare, resumed)

    assert [event.name.removeprefix("thread.") for event in events] == ANSWERED
    assert events[0].data["id"] == resumed.step_id
    (delta,) = [event.data for event in events if event.name == "thread.message.delta"]
    assert delta["delta"]["content"][0]["text"]["value"] == "It rains."
    async with bare.database.transaction() as session:
        query = sa.select(col(RunStep.id)).where(col(RunStep.run_id) == resumed.run.id)
        assert len((await session.execute(query)).all()) == 3


@pytest.mark.parametrize("said", [Reply.text("One two three four."), Reply.refusal("I would rather not.")])
@pytest.mark.parametrize("pieces", [1, 2, 3])
async def test_a_text_or_refusal_whose_end_is_lost_is_told_to_its_end_and_no_word_of_it_twice(
    bare: Resources, bare_settings: Settings, project_id: str, scripted: RemoteModelServer, said: Reply, pieces: int
) -> None:
    await asyncio.to_thread(scripted.script, said)
    run = await queued(bare, project_id, "Well?")
    runner = Runner(bare.database, bare.model, "9", bare_settings)
    await asyncio.wait_for(runner.run(run.id), DEADLINE)
    await all_sent(bare)
    key = stream_key(run.id)
    entries: Any = await bare.redis.xrange(key)
    told = [frame for _, fields in entries for frame in frames.split(fields[b"f"])]
    last = [place for place, (_, frame) in enumerate(told) if b"message.delta" in frame][pieces - 1]
    await bare.redis.delete(key)
    kept = b"".join(frame for _, frame in told[: last + 1])
    await bare.redis.xadd(key, {"f": kept}, id=str(told[last][0]))

    hasty = bare.settings.model_copy(update={"stream_ping": 0.1})
    follower = Follower(bare.subscriber, outcome_of(bare.database), hasty)
    async with asyncio.timeout(DEADLINE):
        events = parse(b"".join([batch async for batch in follower.follow(run.id, START) if batch != PING]).decode())

    deltas = [event.data["delta"]["content"][0] for event in events if event.name == "thread.message.delta"]
    assert len(deltas) == pieces + 1
    (whole,) = [event.data["content"][0] for event in events if event.name == "thread.message.completed"]
    if "refusal" in whole:
        assert "".join(delta["refusal"] for delta in deltas) == whole["refusal"]
    else:
        assert "".join(delta["text"]["value"] for delta in deltas) == whole["text"]["value"]
    assert events[-1].name == "thread.run.completed"
