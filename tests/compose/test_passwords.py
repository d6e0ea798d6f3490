"""The passwords of Postgres and Valkey are replaced, by the commands of docs/deploy.md."""

import pytest

from tests.compose.clients import official
from tests.compose.conftest import Make
from tests.compose.documented import commands
from tests.compose.engine import Deployment, until

pytestmark = pytest.mark.timeout(600)

PASSWORDS = ("postgres", "valkey")


def test_new_passwords_are_made_and_used_and_the_former_ones_open_nothing(deploy: Make) -> None:
    deployment = deploy()
    deployment.up()
    before = _passwords(deployment)

    deployment.shell(commands("new passwords"))
    after = _passwords(deployment)
    until(lambda: _healthy(deployment), "all are healthy again")

    assert not set(before) & set(after)
    assert [_opens(deployment, password) for password in (before[0], after[0])] == [False, True]
    with official(deployment.client_environment()) as client:
        assistant = client.beta.assistants.create(model="scripted")
        thread = client.beta.threads.create(messages=[{"role": "user", "content": '[[text="Still here."]]'}])
        run = client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
    assert run.status == "completed"


def _passwords(deployment: Deployment) -> list[str]:
    return [deployment.compose("exec", "-T", name, "cat", "/run/secrets/password") for name in PASSWORDS]


def _opens(deployment: Deployment, password: str) -> bool:
    """Whether Postgres lets somebody in with it who comes over the network."""
    asked = f"PGPASSWORD={password} psql --host=postgres --username=assistantd --command='SELECT' assistantd"
    said = deployment.compose("exec", "-T", "postgres", "sh", "-c", f"{asked} 2>&1 || true")
    assert "authentication failed" in said or "--" in said, said
    return "--" in said


def _healthy(deployment: Deployment) -> bool:
    return all(each["State"]["Health"]["Status"] == "healthy" for each in deployment.containers())
