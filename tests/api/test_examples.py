"""The first conversations of the documentation, run as they stand there."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients import install
from tests.fakes.model_control import RemoteModelServer
from tests.fakes.replies import Reply
from tests.stack import API_KEY, ROOT, Stack

EXAMPLES = ROOT / "docs" / "examples"
CALL = Reply.tool_calls(("get_weather", {"city": "Lisbon"}))
ANSWER = Reply.text("It rains a little in Lisbon, at 21 °C.").costing(prompt=20, completion=10)
Run = Callable[..., str]


@pytest.fixture
def run(stack: Stack, model: RemoteModelServer) -> Run:
    """Run a program against the stack, where the model calls the function and then answers; returns what it printed."""
    model.script(CALL, ANSWER)

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            env={**stack.environment, "OPENAI_BASE_URL": stack.base_url, "OPENAI_API_KEY": API_KEY},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        return done.stdout

    return run


def test_the_first_conversation_in_python(run: Run, model: RemoteModelServer) -> None:
    printed = run(sys.executable, EXAMPLES / "first_conversation.py")

    assert '[calls get_weather with {"city": "Lisbon"}]' in printed
    assert "It rains a little in Lisbon, at 21 °C.\n[completed, " in printed
    assert weather_shown_to(model) == {"city": "Lisbon", "celsius": 21, "sky": "light rain"}


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_first_conversation_in_curl(run: Run, model: RemoteModelServer) -> None:
    printed = run("sh", EXAMPLES / "first_conversation.sh")

    before, after = printed.split("event: done\ndata: [DONE]\n")[:2]
    assert "event: thread.run.requires_action" in before
    assert "event: thread.run.completed" in after
    assert "It rains a little in Lisbon, at 21 °C." in after
    assert weather_shown_to(model) == {"celsius": 21, "sky": "light rain"}


@pytest.mark.skipif(shutil.which("node") is None or shutil.which("npm") is None, reason="needs node and npm")
@pytest.mark.timeout(install.TEST_TIMEOUT)
def test_the_first_conversation_in_node(run: Run, model: RemoteModelServer, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(install.node_clients(str(shutil.which("npm"))))
    script = shutil.copy(EXAMPLES / "first_conversation.mjs", tmp_path)

    printed = run(str(shutil.which("node")), script)

    assert '[calls get_weather with {"city": "Lisbon"}]' in printed
    assert "It rains a little in Lisbon, at 21 °C.\n[completed, " in printed
    assert weather_shown_to(model) == {"city": "Lisbon", "celsius": 21, "sky": "light rain"}


def weather_shown_to(model: RemoteModelServer) -> object:
    """The function's output, as the model saw it at last."""
    (output,) = [said for said in model.requests()[-1]["body"]["messages"] if said["role"] == "tool"]
    return json.loads(output["content"])
