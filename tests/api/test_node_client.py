"""The official Node client in three of its releases. The API sends comments often, as in test_clients.py."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients import install
from tests.stack import API_KEY, Stack

NODE = shutil.which("node")
NPM = shutil.which("npm")
pytestmark = [
    pytest.mark.skipif(NODE is None or NPM is None, reason="needs node and npm"),
    pytest.mark.timeout(install.TEST_TIMEOUT),
]

SOURCE = Path(install.__file__).parent / "node"
RELEASES = {"openai": "7.57.0", "openai-6": "6.49.0", "openai-4": "4.104.0"}
Told = dict[str, Any]


@pytest.fixture(scope="module")
def address(stack: Stack) -> str:
    """An API process that sends comments often."""
    return stack.start_api(ASSISTANTD_STREAM_PING="0.1")


@pytest.fixture(scope="module", params=RELEASES)
def told(request: pytest.FixtureRequest, stack: Stack, address: str, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """What client.mjs told under one release of the client."""
    stack.model.reset()
    folder = tmp_path_factory.mktemp("node")
    (folder / "node_modules").symlink_to(install.node_clients(str(NPM)))
    script = shutil.copy(SOURCE / "client.mjs", folder)
    done = subprocess.run(
        [str(NODE), str(script), request.param],
        env={**stack.environment, "OPENAI_BASE_URL": address, "OPENAI_API_KEY": API_KEY},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: Told = json.loads(done.stdout)
    assert told["version"] == RELEASES[request.param]
    return told


def test_a_node_program_streams_a_run_that_calls_functions(told: Told) -> None:
    facts = told["streamCalls"]

    assert facts.get("raised") is None
    assert facts["statuses"] == ["requires_action", "completed"]
    assert [json.loads(arguments) for _, arguments in facts["calls"]] == [{"city": "Paris"}, {"city": "Rome"}]
    assert facts["assembled"] == facts["calls"]
    assert facts["texts"] == ["Rain, and sun."] * 2


def test_its_listeners_are_told_of_everything_in_order(told: Told) -> None:
    before, after = told["streamCalls"]["called"]

    assert before == ["runStepCreated", "toolCallCreated", "runStepDelta", "toolCallDelta", "toolCallDone", "end"]
    message = ["messageCreated", "textCreated", "messageDelta", "textDelta", "textDone", "messageDone"]
    assert after == ["runStepDone", "runStepCreated", *message, "end"]
    assert told["streamCalls"]["events"][0][-1] == "thread.run.requires_action"
    assert told["streamCalls"]["events"][1][-1] == "thread.run.completed"


def test_a_node_program_polls_a_run(told: Told) -> None:
    assert told["createAndPoll"] == {"status": "completed", "text": "Hello from the model.", "usage": True}


def test_a_node_program_walks_through_all_pages(told: Told) -> None:
    assert told["pageThrough"] == {"found": [*range(25)]}


def test_a_node_program_catches_the_usual_classes_of_errors(told: Told) -> None:
    assert told["errors"] == {
        "unknown": ["NotFoundError", 404, None],
        "wrongType": ["BadRequestError", 400, "invalid_type"],
        "unauthenticated": ["AuthenticationError", 401, "invalid_api_key"],
    }
