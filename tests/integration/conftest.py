"""An empty database and a broker of one's own, without any worker that would touch them."""

from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest
import pytest_asyncio
from sqlmodel import col, select

from orchestrator import projects, resources
from orchestrator.embedded.valkey import Valkey
from orchestrator.migrate import migrate
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.tables import Project
from tests.integration import crowd
from tests.stack import Stack


@pytest_asyncio.fixture(scope="session")
async def bare_settings(stack: Stack) -> Settings:
    """Settings of a migrated database in which nothing happens by itself."""
    return await _of_a_new_database(stack, "bare")


async def _of_a_new_database(stack: Stack, name: str) -> Settings:
    url = stack.environment["DATABASE_URL"]
    connection = await asyncpg.connect(url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    environment = {
        "DATABASE_URL": f"{url.rpartition('/')[0]}/{name}",
        "REDIS_URL": stack.environment["REDIS_URL"],
        "UPSTREAM_BASE_URL": stack.model.base_url,
        "storage_url": (stack.folder / name).as_uri(),
    }
    settings = Settings.model_validate(environment)
    await migrate(settings)
    return settings


@pytest_asyncio.fixture(scope="session")
async def bare(bare_settings: Settings) -> AsyncIterator[Resources]:
    """The connections of a process that uses them."""
    async with resources.opened(bare_settings) as opened:
        yield opened


@pytest_asyncio.fixture(scope="session")
async def crowded(stack: Stack) -> AsyncIterator[Resources]:
    """The connections to a database whose tables are full and analysed: see `crowd`."""
    async with resources.opened(await _of_a_new_database(stack, "crowded")) as opened:
        await crowd.fill(opened.database)
        yield opened


@pytest_asyncio.fixture(scope="session")
async def project_id(bare: Resources) -> str:
    """A project in the bare database."""
    async with bare.database.transaction() as session:
        await projects.register(session, "sk-asst-integration-0123456789")
        return (await session.execute(select(col(Project.id)))).scalar_one()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a broker of the module's own."""
    valkey = Valkey(tmp_path_factory.mktemp("valkey"), durable=False)
    try:
        yield valkey.start()
    finally:
        valkey.stop()
