"""How often a request goes to Postgres: once, for what clients ask for most, whatever it brings along."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from pydantic import SecretStr

from api.app import create_app
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from tests.integration.round_trips import RoundTrips
from tests.integration.short_way import ShortWay, outputs

Json = Any
Request = Callable[["Door"], Awaitable[httpx2.Response]]

KEY = "sk-asst-integration-0123456789"
TRIES = 5
"""The process asks for the time, and once in a while whose key it is: the least counts."""


class Door:
    """The API, with a long thread, a run, and as many empty threads as one likes."""

    def __init__(self, http: httpx2.AsyncClient, trips: RoundTrips) -> None:
        self.http = http
        self.trips = trips
        self.assistant_id = self.thread_id = self.run_id = ""
        self.behind: ShortWay

    async def post(self, path: str, body: Json) -> Json:
        """What is answered."""
        response = await self.http.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    async def empty(self) -> str:
        """A new thread."""
        return str((await self.post("/threads", {}))["id"])


@asynccontextmanager
async def _opened(settings: Settings, trips: RoundTrips) -> AsyncIterator[Door]:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app)
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx2.AsyncClient(transport=transport, base_url="http://test/v1", headers=headers) as http:
            yield Door(http, trips)


@pytest_asyncio.fixture(scope="module")
async def door(bare: Resources, bare_settings: Settings, project_id: str) -> AsyncIterator[Door]:
    with RoundTrips.before(bare_settings.database_url.get_secret_value()) as trips:
        counted = bare_settings.model_copy(update={"database_url": SecretStr(trips.url)})
        async with _opened(counted, trips) as door:
            door.assistant_id = (await door.post("/assistants", {"model": "gpt-4o"}))["id"]
            door.thread_id = await door.empty()
            for _ in range(25):
                await door.post(f"/threads/{door.thread_id}/messages", {"role": "user", "content": "Hi"})
            door.run_id = (await door.post(f"/threads/{door.thread_id}/runs", {"assistant_id": door.assistant_id}))[
                "id"
            ]
            door.behind = ShortWay(bare, project_id, door.thread_id, door.assistant_id)
            yield door


MESSAGE = {"role": "user", "content": "Hi", "metadata": {"k": "v"}}


async def _message(door: Door) -> httpx2.Response:
    path = f"/threads/{await door.empty()}/messages"
    door.trips.count = 0
    return await door.http.post(path, json=MESSAGE)


def _run(**body: Json) -> Request:
    async def created(door: Door) -> httpx2.Response:
        path = f"/threads/{await door.empty()}/runs"
        door.trips.count = 0
        return await door.http.post(path, json={"assistant_id": door.assistant_id, **body})

    return created


async def _thread_and_run(door: Door) -> httpx2.Response:
    door.trips.count = 0
    body = {"assistant_id": door.assistant_id, "thread": {"messages": [MESSAGE] * 5}}
    return await door.http.post("/threads/runs", json=body)


async def _outputs(door: Door) -> httpx2.Response:
    run = await door.behind.asking("call_a", "call_b")
    path = f"/threads/{run.thread_id}/runs/{run.id}/submit_tool_outputs"
    body = outputs("call_a", "call_b").model_dump()
    door.trips.count = 0
    return await door.http.post(path, json=body)


def _get(path: str) -> Request:
    async def got(door: Door) -> httpx2.Response:
        door.trips.count = 0
        return await door.http.get(path.format(thread=door.thread_id, run=door.run_id))

    return got


REQUESTS: dict[str, tuple[Request, int]] = {
    "create message": (_message, 1),
    "create run": (_run(), 1),
    "create run with everything": (_run(additional_messages=[MESSAGE] * 5, instructions="x", temperature=0), 1),
    "create thread and run": (_thread_and_run, 1),
    "submit tool outputs": (_outputs, 1),
    "retrieve run": (_get("/threads/{thread}/runs/{run}"), 1),
    "list messages": (_get("/threads/{thread}/messages"), 1),
    "list messages from a place on": (_get("/threads/{thread}/messages?limit=5&order=asc"), 1),
    "list runs": (_get("/threads/{thread}/runs"), 1),
    "retrieve thread": (_get("/threads/{thread}"), 4),  # begin, whose key, the thread, commit
    "list steps": (_get("/threads/{thread}/runs/{run}/steps"), 6),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_request_goes_to_postgres_so_often(door: Door, name: str) -> None:
    request, wanted = REQUESTS[name]
    counts = []

    for _ in range(TRIES):
        assert (await request(door)).status_code == 200
        counts.append(door.trips.count)

    assert min(counts) == wanted, counts
