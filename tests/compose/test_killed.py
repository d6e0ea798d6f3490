"""Each service is killed in turn while clients listen: everything recovers without a hand, and no run is lost.

The model server is in test_profiles, as its clients hear something else; the proxy is in test_scaling.
"""

import asyncio

import pytest

from tests.compose.clients import UNFINISHED, more, talking
from tests.compose.conftest import Make
from tests.compose.engine import Deployment

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def deployment(deploy: Make, flower_image: None) -> Deployment:
    started = deploy(WORKER_OPTIONS="--task-events")
    started.profiles = ("flower",)
    started.up()
    return started


@pytest.mark.parametrize("service", ["worker", "api", "valkey", "postgres", "flower"])
async def test_a_service_that_is_killed_comes_back_and_no_run_is_lost(deployment: Deployment, service: str) -> None:
    async with talking(deployment.client_environment()) as clients:
        killed = await asyncio.to_thread(deployment.kill, service)
        await asyncio.to_thread(deployment.recovered, service, killed)
        await more(clients, 1)

    assert deployment.sql(UNFINISHED) == "0"


async def test_what_runs_once_runs_again_under_load_and_changes_nothing(deployment: Deployment) -> None:
    before = _state(deployment)
    async with talking(deployment.client_environment()) as clients:
        await asyncio.to_thread(deployment.up)
        await more(clients, 1)

    assert not [end for client in clients for heard in client.conversations for end in heard.ends]
    after = _state(deployment)
    for service in ("secrets", "migrate"):
        assert after.pop(service) > before.pop(service)
    assert after == before


def _state(deployment: Deployment) -> dict[str, str]:
    """When each container began, by its service; and the secrets."""
    containers = deployment.containers(stopped=True)
    for each in containers:
        assert each["State"]["Running"] or each["State"]["ExitCode"] == 0
    read = "for file in /run/assistantd/*; do cat $file; echo; done"
    return {
        "what they know": deployment.compose("exec", "-T", "api", "sh", "-c", read),
        **{each["Config"]["Labels"]["com.docker.compose.service"]: each["State"]["StartedAt"] for each in containers},
    }
