"""Each service is killed in turn while clients listen: everything recovers without a hand, and no run is lost."""

import asyncio

import pytest

from tests.compose.clients import more, talking
from tests.compose.conftest import Make
from tests.compose.engine import Deployment

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def deployment(deploy: Make) -> Deployment:
    started = deploy()
    started.up()
    return started


@pytest.mark.parametrize("service", ["worker", "api", "valkey", "postgres"])
async def test_a_service_that_is_killed_comes_back_and_no_run_is_lost(deployment: Deployment, service: str) -> None:
    async with talking(deployment.client_environment()) as clients:
        killed = await asyncio.to_thread(deployment.kill, service)
        await asyncio.to_thread(deployment.recovered, service, killed)
        await more(clients, 1)

    assert deployment.sql("SELECT count(*) FROM runs WHERE status IN ('queued', 'in_progress', 'cancelling')") == "0"
