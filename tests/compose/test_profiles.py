"""The optional services: the small language model, without any way out, and Celery's monitor."""

import json
from pathlib import Path

import pytest

from tests.compose.clients import official
from tests.compose.conftest import Make
from tests.compose.engine import IMAGE, build, command, until

pytestmark = pytest.mark.timeout(1800)

OFFLINE = Path(__file__).parent / "offline.yaml"
REACH_OUT = """
import socket
try:
    socket.create_connection(("192.0.2.1", 443), 3)
except OSError:
    print("no way out")
"""


def test_with_the_model_profile_it_converses_offline(deploy: Make) -> None:
    build("model", f"{IMAGE}-model:latest")
    deployment = deploy(OFFLINE, UPSTREAM_BASE_URL="")
    deployment.profiles = ("model",)
    took = deployment.up()

    for service in ("worker", "model"):
        said = deployment.compose("exec", "-T", service, "python", "-c", REACH_OUT).strip()
        (each,) = deployment.containers(service)
        (network,) = json.loads(command("docker", "network", "inspect", *each["NetworkSettings"]["Networks"]))
        assert network["Internal"]
        assert said == "no way out"
    with official(deployment.client_environment()) as client:
        (model,) = client.models.list().data
        assistant = client.beta.assistants.create(model=model.id, instructions="Answer in one short sentence.")
        thread = client.beta.threads.create(messages=[{"role": "user", "content": "What is a thread?"}])
        with client.beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id) as stream:
            said = "".join(stream.text_deltas)

    print(f"\nhealthy after {took:.1f} s; {model.id}: {said}")  # noqa: T201
    assert len(said.split()) > 2


def test_with_the_flower_profile_the_workers_are_seen_and_its_port_stays_inside(deploy: Make) -> None:
    build("flower", f"{IMAGE}-flower:latest")
    deployment = deploy(WORKER_OPTIONS="--task-events")
    deployment.profiles = ("flower",)
    deployment.up()
    (worker,) = deployment.containers("worker")
    with official(deployment.client_environment()) as client:
        assistant = client.beta.assistants.create(model="scripted")
        run = client.beta.threads.create_and_run_poll(assistant_id=assistant.id)
    ask = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:5555/workers?json=1&refresh=1').read().decode())"

    def seen() -> bool:
        known = json.loads(deployment.compose("exec", "-T", "flower", "python", "-c", ask))
        return any(worker["Id"].startswith(each["hostname"].partition("@")[2]) for each in known["data"])

    assert run.status == "completed"
    until(seen, "flower has seen the worker")
    (flower,) = deployment.containers("flower")
    assert not any(flower["NetworkSettings"]["Ports"].values())
    assert int(flower["Config"]["User"].partition(":")[0]) > 0
