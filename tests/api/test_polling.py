"""How soon pollers ask again: what answers say about it, and that the official clients keep to it.

When a client asked is read from the log of the API process, which names each request as the client has named it.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from api.polling import HEADER
from tests.api.http import Http, outputs, path_of
from tests.clients import install, releases
from tests.fakes.model_control import RemoteModelServer
from tests.stack import API_KEY, Stack

pytestmark = pytest.mark.timeout(install.TEST_TIMEOUT)

ASKED = 1.5
"""Seconds that the API asks for: neither Python's own interval (1 s) nor Node's (5 s)."""
POLLS = 3
NODE, NPM = shutil.which("node"), shutil.which("npm")
LOCKS = Path(install.__file__).parent
PYTHON_PROGRAM = """
import sys, openai
thread, run, name = sys.argv[1:]
with openai.OpenAI(max_retries=0) as client:
    ended = client.beta.threads.runs.poll(run, thread_id=thread, extra_headers={"x-request-id": name})
print(ended.status)
"""
NODE_PROGRAM = """
const [release, major, thread, run, name] = process.argv.slice(2);
const { default: OpenAI } = await import(release);
const runs = new OpenAI({ maxRetries: 0 }).beta.threads.runs;
const options = { headers: { "x-request-id": name } };
const ended = await (major < 5 ? runs.poll(thread, run, options) : runs.poll(run, { thread_id: thread }, options));
console.log(ended.status);
"""


@pytest.fixture(scope="module")
def patient_url(working: Stack) -> str:
    """An API process that asks all pollers for the same patience."""
    return working.start_api(ASSISTANTD_POLL_SHORTEST=str(ASKED), ASSISTANTD_POLL_LONGEST=str(ASKED))


@pytest.fixture
def patient(patient_url: str, model: RemoteModelServer) -> Iterator[Http]:
    """Plain HTTP to it."""
    http = Http(patient_url)
    with http.client:
        yield http


def python_command(release: str) -> tuple[list[str], dict[str, str]]:
    if release == "openai 3":
        return [sys.executable, "-c", PYTHON_PROGRAM], {}
    path = install.python_client(LOCKS / f"{release.replace(' ', '-')}.lock")
    return [sys.executable, "-P", "-s", "-S", "-c", PYTHON_PROGRAM], {"PYTHONPATH": str(path)}


def node_command(release: str, folder: Path) -> tuple[list[str], dict[str, str]]:
    if NODE is None or NPM is None:
        pytest.skip("needs node and npm")
    (folder / "node_modules").symlink_to(install.node_clients(NPM))
    program = folder / "poll.mjs"
    program.write_text(NODE_PROGRAM)
    return [NODE, str(program), release, releases.NODE[release].partition(".")[0]], {}


def asked_at(stack: Stack, name: str) -> list[float]:
    """When requests of this name were answered, as the API's logs say."""
    lines = [line for log in stack.folder.glob("api-*.log") for line in log.read_text().splitlines() if name in line]
    return [datetime.fromisoformat(json.loads(line)["timestamp"]).timestamp() for line in lines]


CLIENTS = [
    *(pytest.param(name, marks=pytest.mark.through(releases.python(name))) for name in releases.PYTHON),
    *(pytest.param(name, marks=pytest.mark.through(releases.node(name))) for name in releases.NODE),
]


@pytest.mark.parametrize("release", CLIENTS)
def test_case_90_pollers_ask_again_when_they_were_told_to(
    patient: Http, patient_url: str, stack: Stack, release: str, tmp_path: Path
) -> None:
    run = patient.wait(patient.start("[[text=late hold=late]]"), "in_progress")
    of_python = release in releases.PYTHON
    command, more = python_command(release) if of_python else node_command(release, tmp_path)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "PYTHON"))}
    name = f"poll-{run['id']}"

    with subprocess.Popen(
        [*command, run["thread_id"], run["id"], name],
        env={**kept, **more, "OPENAI_BASE_URL": patient_url, "OPENAI_API_KEY": API_KEY},
        stdout=subprocess.PIPE,
        text=True,
    ) as poller:
        try:
            deadline = time.monotonic() + 60
            while len(times := asked_at(stack, name)) < POLLS:
                assert time.monotonic() < deadline, times
                assert poller.poll() is None
                time.sleep(0.1)
            stack.model.release("late")
            told, _ = poller.communicate(timeout=60)
        finally:
            poller.kill()

    assert told.strip() == "completed"
    pauses = [after - before for before, after in pairwise(times)]
    assert min(pauses) > ASKED - 0.2  # more than Python's own second …
    assert min(pauses) < 5  # … and less than Node's own five


@pytest.mark.through(releases.RAW)
def test_case_90_answers_about_a_run_say_when_to_ask_again_while_it_moves(patient: Http, lonely: Http) -> None:
    told = str(int(ASKED * 1000))
    body = {"assistant_id": patient.assistant()["id"], "thread": {"messages": [{"role": "user", "content": "Hi"}]}}
    waiting = patient.ask_for_outputs()

    resting = patient.client.get(path_of(waiting))
    made = patient.client.post("/threads/runs", json=body)
    moved = patient.client.post(f"{path_of(waiting)}/submit_tool_outputs", json=outputs(waiting))
    queued = lonely.start("Hi")
    answers = [
        patient.client.post(path_of(queued), json={"metadata": {}}),
        patient.client.get(path_of(queued)),
        patient.client.post(f"{path_of(queued)}/cancel"),
    ]
    over = patient.client.get(path_of(queued))

    assert [answer.headers.get(HEADER) for answer in (made, moved, *answers)] == [told] * 5
    assert [answer.json()["status"] for answer in answers] == ["queued", "queued", "cancelling"]
    assert over.json()["status"] == "cancelled"
    assert HEADER not in resting.headers
    assert HEADER not in over.headers
