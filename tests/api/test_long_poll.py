"""`?wait=`: the answer comes when the run is at rest, or when the time is over."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import httpx2
import pytest
import pytest_asyncio
import redis

from tests.api.http import PLAIN, WEATHER, Http, path_of
from tests.fakes.model_control import RemoteModelServer
from tests.stack import API_KEY, Stack

HELD = "[[text=late hold=late]]"
HELD_CALL = "[[tool=get_weather:{} hold=late]]"


@pytest.fixture
def broker(stack: Stack) -> Iterator["redis.Redis"]:
    """The broker that holds the streams."""
    with redis.Redis.from_url(stack.environment["REDIS_URL"]) as broker:
        yield broker


@pytest_asyncio.fixture
async def asking(working: Stack) -> AsyncIterator[httpx2.AsyncClient]:
    """A client that can ask many things at once."""
    async with httpx2.AsyncClient(
        base_url=working.base_url,
        headers={"Authorization": f"Bearer {API_KEY}"},
        verify=PLAIN,
        timeout=90,
        limits=httpx2.Limits(max_connections=None),
    ) as client:
        yield client


async def until_listeners(broker: "redis.Redis", run_id: str, count: int) -> None:
    """Return once so many processes listen to a run."""
    async with asyncio.timeout(60):
        while broker.pubsub_numsub(f"run:{run_id}:events")[0][1] != count:  # noqa: ASYNC110  # others listen
            await asyncio.sleep(0.01)


def test_a_run_at_rest_is_answered_at_once(http: Http) -> None:
    waiting, over = http.ask_for_outputs(), http.finish("Hi")

    began = time.monotonic()
    answers = [http.get(path_of(run), wait=60) for run in (waiting, over)]

    assert answers == [waiting, over]
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(("said", "status"), [(HELD, "completed"), (HELD_CALL, "requires_action")])
async def test_the_answer_comes_when_the_run_gets_there(
    http: Http, asking: httpx2.AsyncClient, model: RemoteModelServer, broker: "redis.Redis", said: str, status: str
) -> None:
    run = http.start(said, tools=[WEATHER])
    waiting = asyncio.create_task(asking.get(path_of(run), params={"wait": 60}))
    await until_listeners(broker, run["id"], 1)
    assert not waiting.done()

    model.release("late")
    answer = await waiting

    assert answer.json()["status"] == status
    assert answer.json() == http.get(path_of(run))


def test_when_the_time_is_over_the_run_is_told_as_it_is(http: Http) -> None:
    run = http.wait(http.start(HELD), "in_progress")

    began = time.monotonic()
    answer = http.get(path_of(run), wait=1)

    assert answer["status"] == "in_progress"
    assert time.monotonic() - began >= 1


async def test_a_hundred_wait_at_once_and_keep_nobody_from_anything(
    http: Http, asking: httpx2.AsyncClient, model: RemoteModelServer, broker: "redis.Redis"
) -> None:
    runs = [http.start(HELD) for _ in range(10)]
    waiting = [asyncio.create_task(asking.get(path_of(run), params={"wait": 60})) for run in runs for _ in range(10)]
    for run in runs:
        await until_listeners(broker, run["id"], 1)  # one subscriber for the whole process

    free = await asyncio.gather(*(asking.get(path_of(run)) for run in runs * 3))  # three times the pool's connections
    assert {answer.json()["status"] for answer in free} <= {"queued", "in_progress"}
    assert not any(task.done() for task in waiting)
    model.release("late")
    answers = await asyncio.gather(*waiting)

    assert {answer.json()["status"] for answer in answers} == {"completed"}
    for run in runs:
        await until_listeners(broker, run["id"], 0)


async def test_whoever_waits_hears_that_the_thread_is_gone(
    http: Http, asking: httpx2.AsyncClient, broker: "redis.Redis"
) -> None:
    run = http.wait(http.start(HELD), "in_progress")
    waiting = asyncio.create_task(asking.get(path_of(run), params={"wait": 60}))
    await until_listeners(broker, run["id"], 1)

    http.delete(f"/threads/{run['thread_id']}")

    assert (await waiting).status_code == 404


async def test_nobody_is_waited_for_who_has_gone_away(http: Http, stack: Stack, broker: "redis.Redis") -> None:
    run = http.wait(http.start(HELD), "in_progress")
    address = urlsplit(stack.base_url)
    with socket.create_connection((address.hostname, address.port or 80)) as line:
        asked = f"GET /v1{path_of(run)}?wait=60 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API_KEY}\r\n\r\n"
        line.sendall(asked.encode())
        await until_listeners(broker, run["id"], 1)

    await until_listeners(broker, run["id"], 0)


@pytest.mark.parametrize(
    ("query", "param", "code"),
    [
        ({"wait": "61"}, "wait", "integer_above_max_value"),
        ({"wait": "-1"}, "wait", "integer_below_min_value"),
        ({"wait": "soon"}, "wait", "invalid_type"),
        ({"wait": "1.5"}, "wait", "invalid_type"),
        ({"timeout": "1"}, "timeout", "unknown_parameter"),
    ],
)
def test_other_waits_are_refused(http: Http, query: dict[str, str], param: str, code: str) -> None:
    run = http.finish("Hi")

    error = http.refused("GET", path_of(run), status=400, **query)

    assert (error["param"], error["code"]) == (param, code)
