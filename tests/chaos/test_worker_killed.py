"""A worker is killed in the middle of a run: another finishes it, and nothing that was answered is asked again."""

import asyncio
import json
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from typer.testing import CliRunner

from orchestrator import cli
from tests import stack as stacks
from tests.api.http import Http
from tests.fakes.replies import Reply
from tests.stack import API_KEY, Stack

WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}


MOST = 2
"""Losses in a row that a run survives here: one for nearly all tests, all of them for the last."""
TERMS = {"ASSISTANTD_RUN_ATTEMPTS": str(MOST), "ASSISTANTD_SHUTDOWN_GRACE": "0.1"}
Process = subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of this module's own, without a worker: the tests start and kill theirs."""
    with stacks.running(tmp_path_factory.mktemp("chaos")) as ours:
        ours.environment |= TERMS
        ours.base_url = ours.start_api()
        yield ours


@pytest.fixture(scope="module")
def survivors() -> list[Process]:
    """The worker that the test before has left, if there was one."""
    return []


@pytest.fixture
def victim(own_stack: Stack, survivors: list[Process]) -> Iterator[Process]:
    """The only worker that lives: whoever survived one test is the next one's victim, since a start takes seconds."""
    victim = survivors.pop() if survivors else own_stack.start_worker()
    yield victim
    own_stack.stop(victim)


@pytest.fixture
def start_survivor(own_stack: Stack, survivors: list[Process]) -> Callable[[], None]:
    """Starts the worker that outlives the test."""
    return lambda: survivors.append(own_stack.start_worker())


@pytest_asyncio.fixture
async def client(own_stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=own_stack.base_url, api_key=API_KEY, max_retries=0, timeout=60) as client:
        own_stack.model.reset()
        yield client


async def start_run(client: openai.AsyncOpenAI) -> tuple[str, "openai.AsyncStream[Any]"]:
    """A streamed run of an assistant with a function; its thread and its events."""
    assistant = await client.beta.assistants.create(model="gpt-4o", tools=[WEATHER])  # type: ignore[list-item]
    thread = await client.beta.threads.create(messages=[{"role": "user", "content": "Weather?"}])
    stream = await client.beta.threads.runs.create(thread_id=thread.id, assistant_id=assistant.id, stream=True)
    return thread.id, stream


async def names(stream: "openai.AsyncStream[Any]", talking: asyncio.Event) -> list[str]:
    """The events of a stream to its end, without their common prefix; deltas in a row count once."""
    heard: list[str] = []
    async for event in stream:
        name = event.event.removeprefix("thread.")
        if not (name.endswith("delta") and heard and heard[-1] == name):
            heard.append(name)
        if name == "message.delta":
            talking.set()
    return heard


async def test_another_worker_finishes_the_run_and_finished_turns_are_not_asked_again(
    own_stack: Stack, client: openai.AsyncOpenAI, victim: Process, start_survivor: Callable[[], None]
) -> None:
    model = own_stack.model
    model.script(
        Reply.tool_calls(("no_such_tool", {})),  # answered by the worker itself, and checkpointed
        Reply.text("It is sunny and warm.").held("killed", after=2),
        Reply.text("It is sunny and warm."),
    )
    thread_id, stream = await start_run(client)
    talking = asyncio.Event()
    events = asyncio.create_task(names(stream, talking))
    await asyncio.wait_for(talking.wait(), 60)

    own_stack.stop(victim)
    start_survivor()
    heard = await asyncio.wait_for(events, 60)

    questions = [len(request["body"]["messages"]) for request in model.requests()]
    assert questions == [1, 3, 3]
    assert heard == [
        "run.created",
        "run.queued",
        "run.in_progress",
        "run.step.created",
        "run.step.in_progress",
        "run.step.delta",
        "run.step.completed",
        "run.step.created",
        "run.step.in_progress",
        "message.created",
        "message.in_progress",
        "message.delta",
        "message.incomplete",
        "run.step.failed",
        "run.step.created",
        "run.step.in_progress",
        "message.created",
        "message.in_progress",
        "message.delta",
        "message.completed",
        "run.step.completed",
        "run.completed",
    ]
    messages = (await client.beta.threads.messages.list(thread_id)).data
    assert [(message.status, message.role) for message in messages] == [
        ("completed", "assistant"),
        ("incomplete", "assistant"),
        ("completed", "user"),
    ]
    assert [len(message.content) for message in messages] == [1, 1, 1]


def test_case_43_the_run_of_a_killed_worker_completes_and_frees_its_thread(
    own_stack: Stack, victim: Process, start_survivor: Callable[[], None]
) -> None:
    own_stack.model.reset()
    own_stack.model.script(Reply.text("It is sunny.").held("killed", after=1), Reply.text("It is sunny."))
    http = Http(own_stack.base_url)
    with http.client:
        run = http.start("Weather?")
        own_stack.model.wait_for(lambda state: state["gates"].get("killed", {}).get("waiting") == 1, timeout=60)

        own_stack.stop(victim)
        start_survivor()
        done = http.wait(run, timeout=60)
        http.post(f"/threads/{run['thread_id']}/messages", {"role": "user", "content": "Thanks."})

    assert (done["status"], done["last_error"]) == ("completed", None)
    assert done["completed_at"] <= run["expires_at"]


async def test_a_worker_that_is_asked_to_stop_gives_its_run_back_at_once(
    own_stack: Stack, client: openai.AsyncOpenAI, victim: Process, start_survivor: Callable[[], None]
) -> None:
    own_stack.model.script(Reply.text("One two three.").held("stopped", after=2), Reply.text("One two three."))
    _, stream = await start_run(client)
    talking = asyncio.Event()
    events = asyncio.create_task(names(stream, talking))
    await asyncio.wait_for(talking.wait(), 60)
    start_survivor()

    victim.send_signal(signal.SIGTERM)
    heard = await asyncio.wait_for(events, 60)
    await asyncio.to_thread(victim.wait, 60)

    assert heard[-1] == "run.completed"
    assert heard.count("message.incomplete") == 1
    assert victim.returncode == 0


async def test_case_43_a_run_whose_only_worker_died_expires_in_time_and_frees_its_thread(
    own_stack: Stack, client: openai.AsyncOpenAI, victim: Process, start_survivor: Callable[[], None]
) -> None:
    own_stack.model.script(Reply.text("Hello."), Reply.text("One two three.").held("killed", after=2))
    hasty_url = own_stack.start_api(ASSISTANTD_RUN_LIFETIME="6")
    _, before = await start_run(client)
    assert (await asyncio.wait_for(names(before, asyncio.Event()), 60))[-1] == "run.completed"  # it works
    hasty = client.with_options(base_url=hasty_url)
    thread_id, stream = await start_run(hasty)
    talking = asyncio.Event()
    events = asyncio.create_task(names(stream, talking))
    await asyncio.wait_for(talking.wait(), 60)
    (run,) = (await client.beta.threads.runs.list(thread_id)).data

    own_stack.stop(victim)
    await asyncio.sleep(max(0.0, run.expires_at - time.time()))  # type: ignore[operator]  # nobody is there to end it
    start_survivor()
    heard = await asyncio.wait_for(events, 60)

    assert heard[-3:] == ["message.incomplete", "run.step.expired", "run.expired"]
    assert len(own_stack.model.requests()) == 2  # whoever came too late has not asked the model again
    await client.beta.threads.messages.create(thread_id, role="user", content="Hello?")
    again = await client.beta.threads.runs.create_and_poll(thread_id=thread_id, assistant_id=run.assistant_id)
    assert again.status == "completed"


async def test_case_43_runs_that_wait_behind_a_dead_workers_run_get_their_turn(
    own_stack: Stack, client: openai.AsyncOpenAI, victim: Process, start_survivor: Callable[[], None]
) -> None:
    own_stack.model.script(Reply.text("One two three.").held("killed", after=2))
    thread_id, stream = await start_run(client)
    talking = asyncio.Event()
    events = asyncio.create_task(names(stream, talking))
    await asyncio.wait_for(talking.wait(), 60)
    (first,) = (await client.beta.threads.runs.list(thread_id)).data

    own_stack.stop(victim)
    interrupting = await client.beta.threads.runs.create(
        thread_id, assistant_id=first.assistant_id, extra_body={"on_active_run": "interrupt"}
    )
    start_survivor()
    ended = await client.beta.threads.runs.poll(interrupting.id, thread_id=thread_id)
    heard = await asyncio.wait_for(events, 60)

    assert ended.status == "completed"
    assert heard[-1] == "run.cancelled"


def test_a_run_that_kills_each_worker_that_carries_it_is_given_up_and_an_innocent_one_completes(
    own_stack: Stack, victim: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_stack.model.reset()
    http = Http(own_stack.base_url)
    victims: list[Process] = []
    with http.client:
        guilty = http.start('guilty [[text="Boom." hold=never]]')
        for kills in range(1, MOST + 1):
            victims.append(own_stack.start_worker() if victims else victim)
            own_stack.model.wait_for(lambda state, asked=kills: state["requests"] == asked, timeout=60)  # type: ignore[misc]
            own_stack.stop(victims[-1])
        innocent = http.start("innocent")
        survivor = own_stack.start_worker()
        given_up, done = http.wait(guilty, timeout=60), http.wait(innocent, timeout=60)
        http.post(f"/threads/{guilty['thread_id']}/messages", {"role": "user", "content": "Still there?"})
    own_stack.stop(survivor)

    assert (given_up["status"], given_up["last_error"]["code"]) == ("failed", "server_error")
    assert given_up["last_error"]["message"].startswith("The run was given up: 2 workers in a row were lost")
    assert done["status"] == "completed"
    monkeypatch.setenv("DATABASE_URL", own_stack.environment["DATABASE_URL"])
    shown = json.loads(CliRunner().invoke(cli.app, ["run", "show", guilty["id"], "--json"]).output)
    names = [f"{socket.gethostname()}:{victim.pid}" for victim in victims]
    assert [(tried["worker"], tried["outcome"]) for tried in shown["attempts"]] == [
        (name, "worker died") for name in names
    ]
