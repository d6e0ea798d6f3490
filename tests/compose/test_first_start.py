"""From a clean clone to the first conversation, and what the containers may do."""

import json

import pytest

from tests.compose.clients import WEATHER, official
from tests.compose.conftest import Make
from tests.compose.documented import commands
from tests.compose.engine import ROOT, Deployment

WITHIN = 60.0
GIVEN = "sk-of-the-model-server-as-the-env-file-has-it"
QUESTION = 'Weather? [[tool=get_weather:{"city":"Paris"}]] [[text="It rains in Paris." delay=0.01]]'
SERVICES = {"secrets", "postgres", "valkey", "migrate", "api", "worker", "scripted"}

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def started(deploy: Make) -> tuple[Deployment, float]:
    """A deployment, and the seconds that it took to be healthy."""
    deployment = deploy()
    deployment.dotenv(f"UPSTREAM_API_KEY={GIVEN}\n")
    return deployment, deployment.up()


def test_a_clean_clone_is_healthy_within_a_minute(started: tuple[Deployment, float]) -> None:
    print(f"\nhealthy after {started[1]:.1f} s")  # noqa: T201

    assert started[1] < WITHIN


def test_the_official_client_converses_streamed_with_a_tool_call(started: tuple[Deployment, float]) -> None:
    with official(started[0].client_environment()) as client:
        assistant = client.beta.assistants.create(model="scripted", tools=[WEATHER])
        thread = client.beta.threads.create(messages=[{"role": "user", "content": QUESTION}])
        with client.beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id) as stream:
            stream.until_done()
        run = stream.current_run
        assert run is not None
        assert run.required_action is not None
        (call,) = run.required_action.submit_tool_outputs.tool_calls
        with client.beta.threads.runs.submit_tool_outputs_stream(
            run_id=run.id, thread_id=thread.id, tool_outputs=[{"tool_call_id": call.id, "output": "rain"}]
        ) as stream:
            said = "".join(stream.text_deltas)

    assert json.loads(call.function.arguments) == {"city": "Paris"}
    assert said == "It rains in Paris."


def test_nothing_runs_as_root_may_do_more_than_it_must_or_writes_where_it_should_not(
    started: tuple[Deployment, float],
) -> None:
    containers = started[0].containers(stopped=True)

    assert {each["Config"]["Labels"]["com.docker.compose.service"] for each in containers} == SERVICES
    for each in containers:
        host = each["HostConfig"]
        assert int(each["Config"]["User"].partition(":")[0]) > 0
        assert not host["CapAdd"]
        assert host["CapDrop"] == ["ALL"]
        assert host["ReadonlyRootfs"]
        assert not host["Privileged"]
        assert "no-new-privileges:true" in host["SecurityOpt"]
        if each["Config"]["Labels"]["com.docker.compose.service"] != "scripted":
            assert host["Memory"] > 0
            assert host["PidsLimit"] > 0
            assert host["NanoCpus"] > 0


def test_the_processes_themselves_have_no_power(started: tuple[Deployment, float]) -> None:
    for service in ("postgres", "valkey", "api", "worker"):
        said = started[0].compose("exec", "-T", service, "cat", "/proc/1/status")
        status = dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)

        assert "0" not in status["Uid"].split()
        assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {0}
        assert status["NoNewPrivs"] == "1"


def test_only_the_port_of_the_api_is_published(started: tuple[Deployment, float]) -> None:
    published = {
        (each["Config"]["Labels"]["com.docker.compose.service"], inside, at["HostIp"], at["HostPort"])
        for each in started[0].containers()
        for inside, where in each["NetworkSettings"]["Ports"].items()
        for at in where or ()
    }

    assert published == {("api", "8300/tcp", "127.0.0.1", str(started[0].port))}


def test_no_secret_is_in_the_configuration_the_containers_arguments_or_the_logs(
    started: tuple[Deployment, float],
) -> None:
    deployment = started[0]
    read = "for file in /run/assistantd/*; do cat $file; echo; done"
    secrets = deployment.compose("exec", "-T", "api", "sh", "-c", read).split()
    passwords = [
        deployment.compose("exec", "-T", name, "cat", "/run/secrets/password") for name in ("postgres", "valkey")
    ]
    seen = deployment.compose("config") + json.dumps(deployment.containers(stopped=True)) + deployment.compose("logs")

    assert len(secrets) == 4
    assert GIVEN in secrets
    for secret in (*secrets, *passwords):
        assert len(secret) > 30
        assert secret not in seen


def test_a_secret_that_is_changed_is_taken_up(started: tuple[Deployment, float]) -> None:
    deployment = started[0]
    deployment.dotenv("UPSTREAM_API_KEY=sk-another\n")

    deployment.shell(commands("changed secrets"))

    assert deployment.compose("exec", "-T", "api", "cat", "/run/assistantd/UPSTREAM_API_KEY") == "sk-another"


def test_a_secret_that_is_missing_is_named(deploy: Make) -> None:
    deployment = deploy(ROOT / "deploy" / "compose.external.yaml")

    with pytest.raises(AssertionError, match="DATABASE_URL is missing"):
        deployment.up()


def test_a_database_and_a_broker_of_somebody_else_are_used(started: tuple[Deployment, float], deploy: Make) -> None:
    theirs = started[0]
    borrowed = deploy(ROOT / "deploy" / "compose.external.yaml")
    network = f"networks: {{default: {{name: {theirs.project}_data, external: true}}}}"
    (borrowed.folder / "network.yaml").write_text(network)
    borrowed.files = (*borrowed.files, borrowed.folder / "network.yaml")
    read = "cd /run/assistantd && for name in DATABASE_URL REDIS_URL; do echo $name=$(cat $name); done"
    borrowed.dotenv(theirs.compose("exec", "-T", "api", "sh", "-c", read))
    borrowed.up()

    assert {each["Config"]["Labels"]["com.docker.compose.service"] for each in borrowed.containers()} == {
        "api",
        "worker",
        "scripted",
    }
