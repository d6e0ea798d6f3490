"""What is passed on to the model server, through the last release of each major line of the official clients."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clients import install, releases
from tests.fakes.embeddings import vector
from tests.fakes.models import MODELS
from tests.stack import API_KEY, ROOT, Stack

NODE = shutil.which("node")
NPM = shutil.which("npm")
HERE = Path(install.__file__).parent
pytestmark = pytest.mark.timeout(install.TEST_TIMEOUT)
Told = dict[str, Any]


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.through(releases.python(name))) for name in releases.PYTHON],
)
def python(request: pytest.FixtureRequest, stack: Stack) -> list[Told]:
    """What `python -m tests.clients.passed_on` told under one release, called and awaited."""
    release: str = request.param
    arguments = ["-P", "-s", "-W", "error::UserWarning"]
    path = str(ROOT)
    if release != "openai 3":
        arguments.append("-S")  # without our own packages
        path += os.pathsep + str(install.python_client(HERE / f"{release.replace(' ', '-')}.lock"))
    told = _told(stack, [sys.executable, *arguments, "-m", "tests.clients.passed_on"], PYTHONPATH=path)
    assert told["version"] == releases.PYTHON[release]
    return [told["sync"], told["async"]]


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.through(releases.node(name))) for name in releases.NODE],
)
def node(request: pytest.FixtureRequest, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> list[Told]:
    """What passed_on.mjs told under one release."""
    folder = tmp_path_factory.mktemp("node")
    (folder / "node_modules").symlink_to(install.node_clients(str(NPM)))
    told = _told(stack, [str(NODE), str(shutil.copy(HERE / "node" / "passed_on.mjs", folder)), request.param])
    assert told["version"] == releases.NODE[request.param]
    return [told["awaited"]]


def test_cases_148_and_149_through_the_python_client(python: list[Told]) -> None:
    for told in python:
        check(told)


@pytest.mark.skipif(NODE is None or NPM is None, reason="needs node and npm")
def test_cases_148_and_149_through_the_node_client(node: list[Told]) -> None:
    for told in node:
        check(told)


def check(told: Told) -> None:
    """Every client gets what it asked for."""
    assert told["text"] == told["whole"] == "Hello from the model."
    assert told["usage"]
    assert told["last_has_no_choices"]
    assert told["numbers"] == vector("one")
    assert list(told["embedded"].values()) == [vector("one")] * 4
    assert told["refused"] == ["rate_limit_exceeded", "7"]
    assert told["models"] == list(MODELS)
    assert told["missing"] == "model_not_found"


def _told(stack: Stack, command: list[str], **environment: str) -> Told:
    stack.model.reset()
    kept = {name: value for name, value in stack.environment.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command,
        env={**kept, "OPENAI_BASE_URL": stack.base_url, "OPENAI_API_KEY": API_KEY, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: Told = json.loads(done.stdout)
    return told
