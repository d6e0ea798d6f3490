"""More and fewer workers, and instances of the API behind the proxy, while clients listen: nothing is lost."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.embedded.process import free_port
from tests.compose.clients import SAYING, UNFINISHED, connected, more, talking
from tests.compose.conftest import Make
from tests.compose.engine import KILLED, Deployment

pytestmark = pytest.mark.timeout(900)

SAMPLER = Path(__file__).parent / "sampler.py"
WATCHED = 10.0
"""Seconds."""
MANY = 40
CARRIED = (
    "SELECT count(DISTINCT split_part(worker, ':', 1)) FROM run_attempts WHERE started_at > now() - interval '1 hour'"
)


@pytest.fixture(scope="module")
def deployment(deploy: Make, proxy_image: str) -> Deployment:
    started = deploy(API_PORT="0", PROXY_PORT=str(free_port()), PROXY_IMAGE=proxy_image)
    started.profiles = ("proxy",)
    started.up()
    return started


async def test_workers_come_and_go_under_load_and_no_run_is_lost(deployment: Deployment) -> None:
    async with talking(deployment.client_environment()) as clients:
        await asyncio.to_thread(deployment.scale, "worker", 3)
        await more(clients, 3)
        await asyncio.to_thread(deployment.scale, "worker", 1)
        await more(clients, 1)

    assert len(deployment.containers("worker")) == 1
    assert deployment.sql(UNFINISHED) == "0"
    assert int(deployment.sql(CARRIED)) > 1  # the new ones had a part in it


async def test_instances_of_the_api_come_and_go_and_clients_resume_elsewhere(deployment: Deployment) -> None:
    async with talking(deployment.client_environment()) as clients:
        (first,) = await asyncio.to_thread(deployment.members, "api")
        await asyncio.to_thread(deployment.scale, "api", 2)
        await more(clients, 2)
        await asyncio.to_thread(deployment.stop, first)  # the one that the clients began with
        await more(clients, 1)
        await asyncio.to_thread(deployment.scale, "api", 1)
        await more(clients, 1)

    assert first not in deployment.members("api")
    assert deployment.sql(UNFINISHED) == "0"


async def test_a_proxy_that_is_killed_comes_back(deployment: Deployment) -> None:
    async with talking(deployment.client_environment()) as clients:
        killed = await asyncio.to_thread(deployment.kill, "proxy")
        await asyncio.to_thread(deployment.recovered, "proxy", killed)
        await more(clients, 1)

    assert deployment.sql(UNFINISHED) == "0"


async def test_the_proxy_passes_streams_on_as_they_come(deployment: Deployment) -> None:
    async with talking(deployment.client_environment(), count=1) as clients:
        await more(clients, 1)

    assert max(heard.spread for client in clients for heard in client.conversations) > SAYING / 2


async def test_connections_stay_within_what_is_documented_for_three_workers_and_two_apis(
    deployment: Deployment,
) -> None:
    environment = deployment.client_environment()
    await asyncio.to_thread(deployment.scale, "worker", 3)
    await asyncio.to_thread(deployment.scale, "api", 2)
    async with talking(environment, count=MANY) as clients, connected(environment) as client:
        watched = asyncio.create_task(asyncio.to_thread(_watched, deployment))
        while not watched.done():
            await asyncio.gather(*(client.beta.assistants.list() for _ in range(MANY)))
        await more(clients, 1)
    found = await watched

    print(f"\n{found}")  # noqa: T201
    for server, most in {"postgres": {"worker": 19, "api": 15}, "valkey": {"worker": 45, "api": 25}}.items():
        for service, count in most.items():
            assert 0 < max(found[server][service]) <= count, (server, service)
    assert found["postgres"]["together"] <= 3 * 19 + 2 * 15 + 1
    assert deployment.sql(UNFINISHED) == "0"


def _watched(deployment: Deployment) -> dict[str, Any]:
    """The most connections that each container had: of each server, by service."""
    said = deployment.compose("exec", "-T", "api", "python", "-c", SAMPLER.read_text(), str(WATCHED))
    found: dict[str, Any] = json.loads(said)
    for most in found.values():
        each = most.pop("each")
        for service in ("worker", "api"):
            members = [list(one["NetworkSettings"]["Networks"].values()) for one in deployment.containers(service)]
            most[service] = [sum(each.get(at["IPAddress"], 0) for at in networks) for networks in members]
    return found


def test_connections_to_the_database_stay_within_what_is_documented(deployment: Deployment) -> None:
    used = deployment.sql("SELECT client_addr, count(*) FROM pg_stat_activity WHERE client_addr IS NOT NULL GROUP BY 1")

    assert used
    for line in used.splitlines():
        assert int(line.split("|")[1]) <= 19, used


def test_all_end_by_themselves_when_they_are_asked_to(deployment: Deployment) -> None:
    codes = deployment.stop_all()

    assert {"api", "worker", "postgres", "valkey", "proxy"} <= set(codes)
    assert KILLED not in codes.values(), codes
