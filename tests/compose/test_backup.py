"""Everything is lost and comes back from a backup, by the commands of docs/deploy.md."""

import pytest

from tests.compose.clients import official
from tests.compose.conftest import Make
from tests.compose.documented import commands

pytestmark = pytest.mark.timeout(600)

NOTES = b'{"also": "this"}\n'


def test_what_was_backed_up_is_there_after_all_volumes_were_lost(deploy: Make) -> None:
    deployment = deploy()
    deployment.up()
    with official(deployment.client_environment()) as client:
        thread = client.beta.threads.create(messages=[{"role": "user", "content": "Remember this."}])
        file = client.files.create(file=("notes.jsonl", NOTES), purpose="batch")

    deployment.shell(commands("backup"))
    deployment.down("--volumes")
    deployment.shell(commands("restore"))
    deployment.up()

    with official(deployment.client_environment()) as client:
        (message,) = client.beta.threads.messages.list(thread.id).data
        assert message.content[0].to_dict()["text"] == {"value": "Remember this.", "annotations": []}
        assert client.files.content(file.id).read() == NOTES
