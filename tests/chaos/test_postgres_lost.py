"""Postgres dies, hangs up on everybody, or its clients freeze: nothing that was paid for is paid again, nothing is half
there, and nobody takes the living for dead.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import asyncpg
import pytest_asyncio

from tests.api.checks import parse
from tests.chaos import cluster as clusters
from tests.chaos.cluster import Cluster, until
from tests.chaos.slots import Slot
from tests.chaos.traces import claims
from tests.stack import API_KEY

Json = Any

RUNS = 8
HANG_UPS = 60
"""Sessions that are ended while clients and workers are at it."""
TURNS = '[[tool=no_such_tool:{}]] [[text="One two three." hold=away hold_after=1]]'
"""A turn that the worker answers itself, and one that waits in its middle."""
T, R = "/v1/threads/thread_1", "/v1/threads/thread_1/runs/run_1"
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
UPLOAD = {"filename": "a.txt", "bytes": 1, "mime_type": "text/plain", "purpose": "assistants"}
REQUESTS: Sequence[tuple[str, str, Json]] = (
    *[("POST", path, {}) for path in (f"{R}/cancel", "/v1/uploads/upload_1/cancel")],
    *[
        ("GET", f"/v1/{path}", None)
        for path in ("assistants", "files", "models", "threads", "models/m", "files/file-1")
    ],
    *[("GET", path, None) for path in (T, R, f"{R}?wait=5", f"{R}/events", f"{R}/steps", f"{R}/steps/step_1")],
    *[
        ("GET", path, None)
        for path in (f"{T}/messages", f"{T}/messages/msg_1", f"{T}/runs", "/v1/files/file-1/content")
    ],
    *[("DELETE", path, None) for path in (T, f"{T}/messages/msg_1", "/v1/assistants/asst_1", "/v1/files/file-1")],
    *[("POST", path, {"metadata": {}}) for path in (T, R, f"{T}/messages/msg_1", "/v1/assistants/asst_1")],
    *[("POST", f"{T}/runs", {"assistant_id": "asst_1", "stream": stream}) for stream in (False, True)],
    ("POST", "/v1/assistants", {"model": "gpt-4o"}),
    ("POST", "/v1/threads", {}),
    ("POST", "/v1/threads/runs", {"assistant_id": "asst_1"}),
    ("POST", f"{T}/messages", {"role": "user", "content": "Hi"}),
    ("POST", f"{R}/submit_tool_outputs", {"tool_outputs": []}),
    ("POST", "/v1/uploads", UPLOAD),
    ("POST", "/v1/uploads/upload_1/complete", {"part_ids": []}),
    ("POST", "/v1/chat/completions", CHAT),
    ("POST", "/v1/embeddings", {"model": "text-embedding-3-small", "input": "Hi"}),
    ("POST", "/v1/files", "form"),
    ("POST", "/v1/uploads/upload_1/parts", "form"),
)
"""Every operation that needs the database."""


@pytest_asyncio.fixture(scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    """An installation with two workers, whose silence is believed for two seconds."""
    with clusters.place() as folder:
        async with clusters.running(folder, proxied=True) as ours:
            await ours.ready(*[ours.add("worker", ASSISTANTD_RUN_LEASE="2") for _ in range(2)])
            yield ours


@pytest_asyncio.fixture
async def api(cluster: Cluster) -> AsyncIterator[aiohttp.ClientSession]:
    """The API, for clients that do not check much; the model has nothing scripted."""
    await asyncio.to_thread(cluster.model.reset)
    headers = {"Authorization": f"Bearer {API_KEY}"}
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(cluster.apis[0].base_url, headers=headers, timeout=timeout) as session:
        yield session


async def post(api: aiohttp.ClientSession, path: str, body: Json) -> Json:
    async with api.post(path, json=body) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def start(api: aiohttp.ClientSession, said: str, count: int = 1) -> list[Json]:
    """Runs on threads of their own in which the user has said this."""
    assistant = await post(api, "/v1/assistants", {"model": "gpt-4o"})
    body = {"assistant_id": assistant["id"], "thread": {"messages": [{"role": "user", "content": said}]}}
    return [await post(api, "/v1/threads/runs", body) for _ in range(count)]


async def waiting(cluster: Cluster, gate: str) -> int:
    """How many answers wait at a gate of the model's."""
    state = await asyncio.to_thread(cluster.model.state)
    found: int = state["gates"].get(gate, {}).get("waiting", 0)
    return found


async def fetch(cluster: Cluster, query: str, *values: Json) -> list[asyncpg.Record]:
    connection = await cluster.connect()
    try:
        return list(await connection.fetch(query, *values))
    finally:
        await connection.close()


async def all_are(cluster: Cluster, status: str, runs: Sequence[Json]) -> bool:
    query = "SELECT count(*) FROM runs WHERE status = $1 AND id = ANY($2)"
    ((found,),) = await fetch(cluster, query, status, [run["id"] for run in runs])
    return bool(found == len(runs))


class Listener:
    """Whoever follows a run's events."""

    def __init__(self, api: aiohttp.ClientSession, run: Json) -> None:
        self.heard = ""
        self.listening = asyncio.create_task(self._listen(api, run))

    async def _listen(self, api: aiohttp.ClientSession, run: Json) -> None:
        async with api.get(f"/v1/threads/{run['thread_id']}/runs/{run['id']}/events") as response:
            assert response.status == 200
            async for piece in response.content.iter_any():
                self.heard += piece.decode()


async def refused(api: aiohttp.ClientSession, method: str, path: str, body: Json) -> None:
    """A request that the API cannot serve now, and says so as it should."""
    form = aiohttp.FormData({"purpose": "assistants"})
    form.add_field("file" if path.endswith("files") else "data", b"x", filename="a.txt")
    sent = {"data": form} if body == "form" else {} if body is None else {"json": body}
    async with api.request(method, path, **sent) as response:
        assert response.status == 503, (method, path, response.status, await response.text())
        assert response.headers["Retry-After"] == "1", (method, path)
        error = (await response.json())["error"]
        assert (error.keys(), error["type"]) == ({"message", "type", "param", "code"}, "server_error"), (method, path)


async def test_runs_outlast_postgres_and_no_turn_is_paid_twice(cluster: Cluster, api: aiohttp.ClientSession) -> None:
    runs = await start(api, TURNS, RUNS)

    async def all_wait() -> bool:
        return await waiting(cluster, "away") == RUNS

    await until(all_wait, "all runs are in the middle of their second turn")
    listener = Listener(api, runs[0])
    await until(lambda: "One" in listener.heard, "the listener hears the run")

    await cluster.stop_postgres("immediate")
    for method, path, body in REQUESTS:
        await refused(api, method, path, body)
    await asyncio.to_thread(cluster.model.release, "away")
    await until(lambda: "three." in listener.heard, "the answer is told on while Postgres is away")

    async def all_answered() -> bool:
        asked = await asyncio.to_thread(cluster.model.requests)
        return sum(request["delivered_at"] is not None for request in asked) == 2 * RUNS

    await until(all_answered, "all turns are finished, and not written down")
    await cluster.start_postgres()
    await until(lambda: all_are(cluster, "completed", runs), "all runs are completed")
    await asyncio.wait_for(listener.listening, 60)

    attempts = await fetch(cluster, "SELECT id, attempt FROM runs WHERE id = ANY($1)", [run["id"] for run in runs])
    assert {row["attempt"] for row in attempts} == {1}
    assert len(await asyncio.to_thread(cluster.model.requests)) == 2 * RUNS
    events = parse(listener.heard)
    assert [event.name for event in events[-4:]] == [
        "thread.message.completed",
        "thread.run.step.completed",
        "thread.run.completed",
        "done",
    ]
    assert all(slot.alive for slot in cluster.slots)


async def test_a_frozen_worker_that_wakes_up_leaves_no_trace(cluster: Cluster, api: aiohttp.ClientSession) -> None:
    said = '[[text="One two three." hold=frozen hold_after=1]] [[text="Four."]]'
    (run,) = await start(api, said)

    async def it_waits() -> bool:
        return await waiting(cluster, "frozen") == 1

    await until(it_waits, "the run is in the middle of its answer")
    frozen = carrier(cluster, run, 1)
    frozen.lose("freeze")
    await until(lambda: any(claim.attempt == 2 for claim in of(cluster, run)), "another worker has the run")
    await asyncio.to_thread(cluster.model.release, "frozen")
    await until(lambda: all_are(cluster, "completed", [run]), "the run is completed")
    before = await traces(cluster, run)
    async with api.get(f"/v1/threads/{run['thread_id']}/runs/{run['id']}/events") as response:
        told = await response.text()

    frozen.thaw()
    await until(lambda: left(frozen, run), "the frozen worker notices")

    assert await traces(cluster, run) == before
    async with api.get(f"/v1/threads/{run['thread_id']}/runs/{run['id']}/events") as response:
        assert await response.text() == told


def of(cluster: Cluster, run: Json) -> list[Any]:
    return [claim for claim in claims(cluster.workers) if claim.run_id == run["id"]]


def carrier(cluster: Cluster, run: Json, attempt: int) -> Slot:
    (claim,) = [claim for claim in of(cluster, run) if claim.attempt == attempt]
    return next(slot for slot in cluster.workers if slot.life is claim.life)


def left(slot: Slot, run: Json) -> bool:
    """Whether a worker has said that the run is somebody else's."""
    return any(line["event"] == "run_left" and line.get("run_id") == run["id"] for line in slot.life.lines())


async def traces(cluster: Cluster, run: Json) -> list[str]:
    """All that is stored of a run."""
    found: list[str] = []
    for table, column in (("runs", "id"), ("messages", "run_id"), ("run_steps", "run_id")):
        query = f"SELECT to_jsonb(t)::text FROM {table} t WHERE {column} = $1 ORDER BY position"  # noqa: S608
        found += [row[0] for row in await fetch(cluster, query, run["id"])]
    return found


async def test_hung_up_on_at_any_moment_nothing_is_half_there(cluster: Cluster, api: aiohttp.ClientSession) -> None:
    chance = random.Random(4)
    said = '[[tool=no_such_tool:{}]] [[text="One two three." delay=0.02]]'

    async def hang_up() -> None:
        connection = await cluster.connect()
        sessions = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        for _ in range(HANG_UPS):
            victims = [row["pid"] for row in await connection.fetch(sessions)]
            if victims:
                await connection.execute("SELECT pg_terminate_backend($1)", chance.choice(victims))
            await asyncio.sleep(0.03)
        await connection.close()

    async def insist(path: str, body: Json) -> Json:
        deadline = time.monotonic() + 60
        while True:
            async with api.post(path, json=body) as response:
                answer = await response.json()
                if response.status == 200:
                    return answer
                assert response.status == 503, answer
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)

    async def client() -> Json:
        thread = await insist("/v1/threads", {"messages": [{"role": "user", "content": "Hello."}]})
        await insist(f"/v1/threads/{thread['id']}/messages", {"role": "user", "content": said})
        body = {"assistant_id": assistant["id"], "on_active_run": "enqueue"}
        return await insist(f"/v1/threads/{thread['id']}/runs", body)

    assistant = await post(api, "/v1/assistants", {"model": "gpt-4o"})
    hanging_up = asyncio.create_task(hang_up())
    runs = await asyncio.gather(*(client() for _ in range(12)))
    await hanging_up

    # What was committed unanswered was not told: nobody was woken for it. Housekeeping would look half a minute later.
    await fetch(cluster, "UPDATE runs SET wake_at = now() WHERE status = 'queued'")
    await until(lambda: all_are(cluster, "completed", runs), "all runs are completed")
    moving = "SELECT id FROM runs WHERE status NOT IN ('completed') AND thread_id = ANY($1)"
    threads = [run["thread_id"] for run in runs]
    await until(lambda: none_of(cluster, moving, threads), "no run of these threads is on its way")
    open_ = "SELECT m.id FROM messages m WHERE m.status = 'in_progress' AND thread_id = ANY($1)"
    assert await none_of(cluster, open_, threads)
    counted = """SELECT r.id, count(s.id) FILTER (WHERE s.status = 'completed') AS steps,
        (SELECT count(*) FROM messages m WHERE m.run_id = r.id AND m.status = 'completed') AS said
        FROM runs r LEFT JOIN run_steps s ON s.run_id = r.id WHERE r.id = ANY($1) GROUP BY r.id"""
    rows = await fetch(cluster, counted, [run["id"] for run in runs])
    assert {(row["steps"], row["said"]) for row in rows} == {(2, 1)}


async def none_of(cluster: Cluster, query: str, values: Json) -> bool:
    return not await fetch(cluster, query, values)


async def test_a_slow_postgres_makes_everything_slow_and_nothing_wrong(
    cluster: Cluster, api: aiohttp.ClientSession
) -> None:
    slots = [*cluster.apis, *cluster.workers]
    for slot in slots:
        slot.proxies["postgres"].set_mode("delay", seconds=0.04)
    try:
        runs = await start(api, '[[tool=no_such_tool:{}]] [[text="One two three."]]', 2)
        await until(lambda: all_are(cluster, "completed", runs), "all runs are completed")
    finally:
        for slot in slots:
            slot.proxies["postgres"].set_mode("pass")

    assert len(await asyncio.to_thread(cluster.model.requests)) == 2 * len(runs)
