"""How an API process leaves, and how it gets rid of clients that take nothing: the server in this process, over TCP."""

import asyncio
import json
import signal
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from sqlalchemy.exc import OperationalError
from starlette.types import Message
from typing_extensions import override

from api import sse
from api.leaving import Leaving
from api.routers import health
from api.server import Server
from api.sse import Streams
from api.waiting import while_connected
from orchestrator.events.follower import Follower
from orchestrator.events.frames import START, Cursor
from orchestrator.events.listener import PING, Outlet

DEADLINE = 60.0
CREATED = b'id: 0-1\nevent: thread.created\ndata: {"id":"thread_1"}\n\n'
DELTA = b"id: 1-%d\nevent: thread.message.delta\ndata: {}\n\n"


class Told(Follower):
    """Tells what it was given after some time, and nothing more."""

    def __init__(self, *batches: bytes, late: float = 0.0) -> None:
        self._batches = batches
        self._late = late

    @override
    async def follow(
        self, run_id: str, after: Cursor, answered: str | None = None, outlet: Outlet | None = None
    ) -> AsyncGenerator[bytes, None]:
        await asyncio.sleep(self._late)
        for batch in self._batches:
            yield batch
        await asyncio.Event().wait()


class Talkative(Follower):
    """Tells more than any client takes in."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    @override
    async def follow(
        self, run_id: str, after: Cursor, answered: str | None = None, outlet: Outlet | None = None
    ) -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"".join(DELTA % number for number in range(1000))
                await asyncio.sleep(0)
        finally:
            self.gone.set()


@dataclass
class Served:
    """A server, a client of it, and what lets its slow request end."""

    server: Server
    http: httpx2.AsyncClient
    port: int
    slow: asyncio.Event

    def leave(self) -> None:
        """As SIGTERM does."""
        self.server.handle_exit(signal.SIGTERM, None)


@asynccontextmanager
async def serving(follower: Follower, *, drain_delay: float = 0.0, silence: float = DEADLINE) -> AsyncIterator[Served]:
    """A server with an event stream, a long poll and a slow request. It has left when the block has ended."""
    app, leaving, done = FastAPI(), Leaving(), asyncio.Event()
    app.include_router(health.router)
    app.state.leaving = leaving
    app.state.resources = None
    streams = Streams(follower, leaving)

    @app.get("/stream")
    async def stream(run: str = "run_1") -> Response:
        return streams.of("thread_1", run, START)

    @app.get("/poll")
    async def poll(request: Request) -> Response:
        with leaving.awaited() as left:
            over = await while_connected(request.receive, asyncio.sleep(2 * DEADLINE), left)
        return Response("over" if over else "leaving")

    @app.get("/slow")
    async def slow() -> Response:
        await done.wait()
        return Response("done")

    config = uvicorn.Config(app, port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=int(DEADLINE))
    server = Server(config, leaving, drain_delay=drain_delay, silence=silence)
    running = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE) as http:
        yield Served(server, http, port, done)
        server.should_exit = True
        await asyncio.wait_for(running, DEADLINE)


def is_full(connection: Any) -> bool:
    """Whether its client does not take what is sent to it."""
    return bool(connection.flow.write_paused)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not true():  # noqa: ASYNC110  # what is looked at tells nobody
            await asyncio.sleep(0.01)


async def test_streams_and_long_polls_end_at_once_and_other_requests_when_they_are_done() -> None:
    async with serving(Told(CREATED)) as served, served.http.stream("GET", "/stream") as response:
        lines = response.aiter_lines()
        assert await anext(lines) == "id: 0-1"
        polling = asyncio.create_task(served.http.get("/poll"))
        slowly = asyncio.create_task(served.http.get("/slow"))
        await until(lambda: len(served.server.server_state.tasks) == 3)

        served.leave()
        rest = [line async for line in lines]
        polled = await polling
        served.slow.set()

        assert (await slowly).text == "done"
        assert polled.text == "leaving"
        assert response.headers["content-location"] == "/v1/threads/thread_1/runs/run_1/events"
        assert rest[-4:-2] == ["retry: 1000", "event: error"]
        error = json.loads(rest[-2].removeprefix("data: "))
        assert error["error"]["code"] == error["code"] == "stream_interrupted"
        assert "/v1/threads/thread_1/runs/run_1/events" in error["message"]


async def sent_by(stream: Response) -> list[Message]:
    """What a stream sends to a client that stays until its end."""
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    await asyncio.wait_for(stream({"type": "http", "client": None}, receive, send), DEADLINE)
    return sent


async def test_a_stream_that_begins_while_the_server_leaves_still_says_which_run_it_is_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sse, "LAST_WORDS", DEADLINE)
    leaving = Leaving()
    leaving.leave()
    stream = Streams(Told(CREATED, DELTA % 1, late=0.05), leaving).of("thread_1", "run_1", START)
    sent = await sent_by(stream)

    body = b"".join(message.get("body", b"") for message in sent)
    assert body.startswith(CREATED + b"retry: 1000\nevent: error\n")
    assert sent[-1].get("more_body", False) is False


class Hanging(Follower):
    """Keeps the whole process from doing anything for a while, then breaks, or goes on without a word."""

    def __init__(self, seconds: float, error: Exception | None) -> None:
        self._seconds = seconds
        self._error = error

    @override
    async def follow(
        self, run_id: str, after: Cursor, answered: str | None = None, outlet: Outlet | None = None
    ) -> AsyncGenerator[bytes, None]:
        time.sleep(self._seconds)  # noqa: ASYNC251  # the point
        if self._error is not None:
            raise self._error
        await asyncio.Event().wait()
        yield b""


@pytest.mark.parametrize(
    "error", [None, OperationalError("SELECT", {}, ConnectionError("away"))], ids=["late", "broken"]
)
async def test_a_farewell_is_said_however_busy_or_broken_the_server_is(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    monkeypatch.setattr(sse, "LAST_WORDS", 0.05)
    leaving = Leaving()
    leaving.leave()
    stream = Streams(Hanging(0.1, error), leaving).of("thread_1", "run_1", START)
    sent = await sent_by(stream)

    assert b"".join(message.get("body", b"") for message in sent).startswith(b"retry: 1000\nevent: error\n")


async def test_a_run_of_which_nothing_can_be_told_is_named_by_the_farewell() -> None:
    async with serving(Told(PING)) as served, served.http.stream("GET", "/stream") as response:
        lines = response.aiter_lines()
        assert await anext(lines) == ": ping"

        served.leave()
        rest = [line async for line in lines]

    assert "run_1" in rest[-2]


async def test_a_server_that_drains_serves_on_but_is_not_ready() -> None:
    async with serving(Told(CREATED), drain_delay=2 * DEADLINE) as served:
        served.leave()
        await until(lambda: served.server.draining)

        ready = await served.http.get("/readyz")
        alive = await served.http.get("/healthz")

        assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
        assert ready.headers["connection"] == "close"
        assert alive.status_code == 200
        served.leave()  # asked again: at once


async def test_a_client_that_takes_nothing_does_not_keep_the_server_from_leaving() -> None:
    async with serving(Talkative()) as served, listening_to_nothing(served.port):
        await until(lambda: any(map(is_full, served.server.server_state.connections)))

        served.leave()
        await until(lambda: not served.server.server_state.connections)


async def test_a_client_that_takes_nothing_for_too_long_is_dropped() -> None:
    follower = Talkative()
    async with serving(follower, silence=0.5) as served, listening_to_nothing(served.port):
        await asyncio.wait_for(follower.gone.wait(), DEADLINE)

        assert not served.server.server_state.connections


@asynccontextmanager
async def listening_to_nothing(port: int) -> AsyncIterator[None]:
    """A client that asks for the stream and never reads."""
    with socket.create_connection(("127.0.0.1", port)) as line:
        line.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        yield
