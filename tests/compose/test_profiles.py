"""The optional services: the small language model, without any way out, and Celery's monitor."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.compose.clients import UNFINISHED, WEATHER, Talk, more, official, talking
from tests.compose.conftest import Make
from tests.compose.engine import KILLED, Deployment, command, until

pytestmark = pytest.mark.timeout(1800)

OFFLINE = Path(__file__).parent / "offline.yaml"
LOOK_IT_UP = "You are a friendly weather assistant. Look the weather up with get_weather, then answer in one sentence."
CHAT = Talk("Say hello.", answer=None, ends=frozenset({"completed", "failed"}), tools=())
"""What a model had begun to say when it was killed cannot be asked again: such a run fails, and says so."""
REACH_OUT = """
import socket
try:
    socket.create_connection(("192.0.2.1", 443), 3)
except OSError:
    print("no way out")
"""


@pytest.fixture(scope="module")
def offline(deploy: Make, model_image: None) -> Deployment:
    """With the small language model and nothing else to answer; nobody who does has a way out."""
    deployment = deploy(OFFLINE, UPSTREAM_BASE_URL="")
    deployment.profiles = ("model",)
    print(f"\nhealthy after {deployment.up():.1f} s")  # noqa: T201
    return deployment


def test_with_the_model_profile_it_converses_offline(offline: Deployment) -> None:
    for service in ("worker", "model"):
        said = offline.compose("exec", "-T", service, "python", "-c", REACH_OUT).strip()
        (each,) = offline.containers(service)
        (network,) = json.loads(command("docker", "network", "inspect", *each["NetworkSettings"]["Networks"]))
        assert network["Internal"]
        assert said == "no way out"
    with official(offline.client_environment()) as client:
        (model,) = client.models.list().data
        assistant = client.beta.assistants.create(model=model.id, instructions="Answer in one short sentence.")
        thread = client.beta.threads.create(messages=[{"role": "user", "content": "What is a thread?"}])
        with client.beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id) as stream:
            said = "".join(stream.text_deltas)

    print(f"\n{model.id}: {said}")  # noqa: T201
    assert len(said.split()) > 2


def test_offline_it_calls_a_function_streamed(offline: Deployment) -> None:
    with official(offline.client_environment()) as client:
        assistant = client.beta.assistants.create(
            model="any", instructions=LOOK_IT_UP, tools=[WEATHER], temperature=0.01
        )
        thread = client.beta.threads.create(
            messages=[{"role": "user", "content": "What is the weather like in Paris?"}]
        )
        with client.beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id) as stream:
            stream.until_done()
        run = stream.current_run
        assert run is not None
        assert run.required_action is not None
        calls = run.required_action.submit_tool_outputs.tool_calls
        with client.beta.threads.runs.submit_tool_outputs_stream(
            run_id=run.id,
            thread_id=thread.id,
            tool_outputs=[{"tool_call_id": call.id, "output": "18 degrees, light rain"} for call in calls],
        ) as stream:
            said = "".join(stream.text_deltas)

    print(f"\n{calls[0].function.name}{calls[0].function.arguments}: {said}")  # noqa: T201
    assert {call.function.name for call in calls} == {"get_weather"}
    assert "city" in json.loads(calls[0].function.arguments)
    assert "18" in said


async def test_a_model_server_that_is_killed_comes_back_and_no_run_is_stuck(offline: Deployment) -> None:
    async with talking(offline.client_environment(), count=2, talk=CHAT) as clients:
        killed = await asyncio.to_thread(offline.kill, "model")
        await asyncio.to_thread(offline.recovered, "model", killed)
        begun = [len(client.conversations) for client in clients]
        await more(clients, 2)  # of which the last began when it was back

    assert offline.sql(UNFINISHED) == "0"
    for client, count in zip(clients, begun, strict=True):
        assert {heard.status for heard in client.conversations[count:]} == {"completed"}


def test_with_the_flower_profile_the_workers_are_seen_and_its_port_stays_inside(
    deploy: Make, flower_image: None
) -> None:
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
    assert deployment.stop_all()["flower"] != KILLED


def test_the_model_server_ends_by_itself_when_it_is_asked_to(offline: Deployment) -> None:
    assert offline.stop_all()["model"] != KILLED
