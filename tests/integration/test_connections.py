"""No connection of the database is held while somebody else is waited for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
from sqlalchemy import text

from api.app import create_app
from orchestrator import resources
from orchestrator.settings import Settings

DEADLINE = 60.0


@asynccontextmanager
async def silent_upstream() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A model server that takes requests and says nothing; the event tells that it has one."""
    asked = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        asked.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/v1", asked


async def test_a_request_that_waits_for_the_model_server_holds_no_connection(
    bare_settings: Settings, project_id: str
) -> None:
    async with silent_upstream() as (url, asked):
        changes = {"upstream_base_url": url, "upstream_connect_timeout": DEADLINE}
        app = create_app(bare_settings.model_copy(update=changes))
        key = {"Authorization": "Bearer sk-asst-integration-0123456789"}
        transport = httpx2.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://test", headers=key) as client,
        ):
            request = asyncio.create_task(client.get("/v1/models"))
            await asyncio.wait_for(asked.wait(), DEADLINE)

            held = app.state.resources.database.engine.pool.checkedout()

            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
    assert held == 0


async def test_the_heartbeat_does_not_stand_in_line_behind_the_runs_of_its_process(bare_settings: Settings) -> None:
    settings = bare_settings.model_copy(update={"database_pool_size": 1, "database_queue": DEADLINE})

    async with (
        resources.opened(settings) as opened,
        resources.beside(opened, 1) as upkeep,
        opened.database.transaction() as session,
    ):
        await session.execute(text("SELECT 1"))  # on the only connection of the pool
        async with asyncio.timeout(DEADLINE / 2), upkeep.transaction() as beating:
            beats = (await beating.execute(text("SELECT 1"))).scalar_one()

    assert beats == 1
