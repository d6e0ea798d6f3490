"""What /readyz says when a part is away, when the schema is not ours, and when the process is about to end."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx2
import pytest
import pytest_asyncio
from fastapi import FastAPI
from pydantic import SecretStr

from api.app import create_app
from orchestrator.embedded.valkey import Valkey
from orchestrator.migrations import HEAD
from orchestrator.settings import Settings

LONG = 3.0
"""Seconds; a probe that waits for the broker's own timeout takes five."""


@dataclass
class Api:
    """An API in this process, whose broker is its own."""

    app: FastAPI
    http: httpx2.AsyncClient
    valkey: Valkey

    async def ready(self) -> tuple[int, dict[str, str]]:
        """What it says of itself."""
        answer = await self.http.get("/readyz")
        return answer.status_code, answer.json()


@pytest_asyncio.fixture
async def api(bare_settings: Settings, project_id: str, tmp_path: Path) -> AsyncIterator[Api]:
    valkey = Valkey(tmp_path / "valkey", durable=False)
    changes = {"redis_url": SecretStr(valkey.start())}
    app = create_app(bare_settings.model_copy(update=changes))
    key = {"Authorization": "Bearer sk-asst-integration-0123456789"}
    transport = httpx2.ASGITransport(app)
    try:
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://test", headers=key, timeout=60) as http,
        ):
            yield Api(app, http, valkey)
    finally:
        valkey.stop()


async def test_without_the_broker_requests_are_served_and_readiness_names_it(api: Api) -> None:
    async with asyncio.timeout(60):  # a busy machine may take longer than the broker is given
        while await api.ready() != (200, {"status": "ok", "database": "ok", "broker": "ok"}):
            pass

    api.valkey.stop()
    status, body = await api.ready()
    thread = await api.http.post("/v1/threads", json={})

    assert (status, body["status"], body["database"]) == (200, "degraded", "ok")
    assert body["broker"] != "ok"
    assert thread.status_code == 200


async def test_a_broker_that_hangs_does_not_keep_probes_waiting(api: Api) -> None:
    pid = api.valkey.process.pid if api.valkey.process else None
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(60):  # probes on a busy machine may be late, but not all of them
            took = LONG
            while took >= LONG:
                began = time.monotonic()
                status, body = await api.ready()
                took = time.monotonic() - began
    finally:
        os.kill(pid, signal.SIGCONT)

    assert (status, body["status"], body["broker"]) == (200, "degraded", "TimeoutError")


async def test_an_instance_whose_connections_are_all_taken_is_ready_all_the_same(
    bare_settings: Settings, project_id: str
) -> None:
    app = create_app(bare_settings.model_copy(update={"database_pool_size": 1}))
    transport = httpx2.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://test", timeout=60) as http,
        app.state.resources.database.engine.connect(),
    ):
        answer = await http.get("/readyz")

    assert (answer.status_code, answer.json()["database"]) == (200, "ok")


async def test_a_process_that_is_about_to_end_is_not_ready_but_lives(api: Api) -> None:
    api.app.state.leaving.drain()

    assert await api.ready() == (503, {"status": "draining"})
    assert (await api.http.get("/healthz")).json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("schema", "status", "said"),
    [
        ("0001", 503, "not migrated"),
        (None, 503, "not migrated"),
        ("9999", 200, "ok"),
        ("ab12cd34ef56", 503, "not migrated"),  # another program's
    ],
)
async def test_a_schema_must_not_be_older_than_the_release(
    api: Api, bare_settings: Settings, schema: str | None, status: int, said: str
) -> None:
    connection = await asyncpg.connect(bare_settings.database_url.get_secret_value())
    try:
        await connection.execute("DELETE FROM alembic_version")
        if schema is not None:
            await connection.execute("INSERT INTO alembic_version VALUES ($1)", schema)

        found = await api.ready()
    finally:
        await connection.execute("DELETE FROM alembic_version")
        await connection.execute("INSERT INTO alembic_version VALUES ($1)", HEAD)
        await connection.close()

    assert (found[0], found[1]["database"]) == (status, said)


async def test_a_database_that_is_away_is_named(bare_settings: Settings, unused_tcp_port: int) -> None:
    nowhere = f"postgresql://nobody@127.0.0.1:{unused_tcp_port}/nothing"
    app = create_app(bare_settings.model_copy(update={"database_url": SecretStr(nowhere)}))
    transport = httpx2.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://test", timeout=60) as http,
    ):
        answer = await http.get("/readyz")

    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
    assert answer.json()["database"] != "ok"
