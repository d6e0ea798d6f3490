"""`assistantd health`: a process that works is told from one that is gone, hangs, or cannot serve."""

import asyncio
import socket
import threading
from contextlib import suppress
from urllib.parse import urlsplit

import asyncpg
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from orchestrator import cli, presence, vital_signs
from orchestrator.cli.console import CommandError
from orchestrator.execution.runner import Runner
from orchestrator.foreign import Json
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.tables import Worker
from tests.stack import Stack

HERE = socket.gethostname()


async def health(settings: Settings, *arguments: str, **environment: str) -> Json:
    """What the command says, in a process that knows the database."""
    known = {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        **environment,
    }
    part, *options = arguments
    command = ["health", part, "--timeout", "60", *options]  # this machine may be busy
    return await asyncio.to_thread(CliRunner().invoke, cli.app, command, env=known)


def complaint(result: Json) -> str:
    assert result.exit_code == 1
    assert isinstance(result.exception, CommandError)
    return str(result.exception)


@pytest.fixture
async def nobody(bare: Resources) -> None:
    """No worker has left a trace."""
    async with bare.database.transaction() as session:
        await session.execute(sa.delete(Worker))


@pytest.mark.usefixtures("nobody")
async def test_a_worker_is_healthy_while_it_holds_its_lock_and_speaks(bare: Resources, bare_settings: Settings) -> None:
    owner = presence.new_owner()
    runner = Runner(bare.database, bare.model, owner, bare_settings)

    async with presence.present(owner, runner, bare.database, bare_settings):
        alive = await health(bare_settings, "worker")
        elsewhere = await health(bare_settings, "worker", "--host", "another")
        async with asyncio.timeout(60):
            while True:  # it says next to nothing, which a lease of a millisecond takes for death
                silent = await health(bare_settings, "worker", ASSISTANTD_RUN_LEASE="0.001")
                if silent.exit_code:
                    break
    gone = await health(bare_settings, "worker")

    assert alive.exit_code == 0
    assert alive.output.startswith("heard of ")
    assert "holds its lock" in complaint(elsewhere)
    assert "has not been heard of for" in complaint(silent)
    assert "holds its lock" in complaint(gone)


@pytest.mark.usefixtures("nobody")
async def test_a_worker_that_died_and_left_its_row_is_not_healthy(bare: Resources, bare_settings: Settings) -> None:
    async with bare.database.transaction() as session:
        await session.execute(sa.insert(Worker).values(owner="4719", name=f"{HERE}:1"))

    assert "holds its lock" in complaint(await health(bare_settings, "worker"))


async def test_a_database_that_cannot_be_asked_is_named(bare_settings: Settings, unused_tcp_port: int) -> None:
    nowhere = f"postgresql://nobody@127.0.0.1:{unused_tcp_port}/nothing"

    assert "cannot be asked" in complaint(await health(bare_settings, "worker", DATABASE_URL=nowhere))


async def test_a_hanging_database_is_waited_for_no_longer_than_told(bare_settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        nowhere = f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/nothing"

        said = complaint(await health(bare_settings, "worker", "--timeout", "0.2", DATABASE_URL=nowhere))

    assert "cannot be asked (TimeoutError)" in said


async def test_a_database_that_hangs_later_is_waited_for_no_longer_either(
    bare: Resources, bare_settings: Settings
) -> None:
    async with bare.database.transaction() as session:
        await session.execute(sa.text("LOCK TABLE workers IN ACCESS EXCLUSIVE MODE"))

        said = complaint(await health(bare_settings, "worker", "--timeout", "2"))

    assert "cannot be asked (TimeoutError)" in said


async def test_a_name_server_that_hangs_is_not_waited_for(
    bare_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()

    def hang(*_: object, **__: object) -> Json:
        answered.wait()
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        worker = await health(bare_settings, "worker", "--timeout", "0.2", DATABASE_URL="postgresql://a@b.example/c")
        api = await health(bare_settings, "api", "--timeout", "0.2", ASSISTANTD_API_HOST="b.example")
    finally:
        answered.set()

    assert "cannot be asked (TimeoutError)" in complaint(worker)
    assert complaint(api).endswith("within 0.2 seconds.")


async def test_an_api_that_comes_to_no_end_is_not_healthy(bare_settings: Settings) -> None:
    async def dribble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            writer.write(b"HTTP/1.1 200 OK\r\n")
            while not writer.is_closing():
                writer.write(b"One-More: header\r\n")
                await writer.drain()
                await asyncio.sleep(0.05)
        writer.close()

    async with await asyncio.start_server(dribble, "127.0.0.1", 0) as server:
        port = str(server.sockets[0].getsockname()[1])
        said = complaint(await health(bare_settings, "api", "--timeout", "0.3", ASSISTANTD_API_PORT=port))

    assert said == f"Nobody answers at 127.0.0.1:{port} within 0.3 seconds."


async def test_the_api_is_healthy_while_it_is_ready(
    stack: Stack, bare_settings: Settings, unused_tcp_port: int
) -> None:
    port = str(urlsplit(stack.base_url).port)

    ready = await health(bare_settings, "api", ASSISTANTD_API_HOST="0.0.0.0", ASSISTANTD_API_PORT=port)  # noqa: S104
    nobody = await health(bare_settings, "api", ASSISTANTD_API_PORT=str(unused_tcp_port))

    assert ready.exit_code == 0
    assert '"database":"ok"' in ready.output
    assert "Nobody answers" in complaint(nobody)


async def test_an_api_that_cannot_serve_is_not_healthy(bare_settings: Settings) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 8\r\n\r\ndraining")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = str(server.sockets[0].getsockname()[1])
        said = complaint(await health(bare_settings, "api", ASSISTANTD_API_PORT=port))

    assert said == "It cannot serve: draining"


async def test_the_locks_that_are_asked_for_are_those_that_are_taken(bare: Resources, bare_settings: Settings) -> None:
    shown = presence.Presence("4720", bare_settings)
    try:
        assert await shown.take()
        connection = await asyncpg.connect(bare_settings.database_url.get_secret_value())
        held = await connection.fetchval(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = $1 AND objid = 4720",
            vital_signs.LOCK_CLASS,
        )
        await connection.close()
    finally:
        shown.drop()

    assert held == 1
