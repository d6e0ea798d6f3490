"""How soon pollers ask again: what answers say about it, and that the official clients keep to it.

When a client asked is read from the log of the API process, which names each request as the client has named it.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Polled:
    """What a poller printed in the end, and when its questions were answered."""

    told: str
    times: list[float]


@dataclass(frozen=True)
class Patient:
    """An API process that asks all pollers for the same patience."""

    base_url: str
    log: Path

    def answered(self, names: Iterable[str]) -> dict[str, list[float]]:
        """When requests of these names were answered, as its log says."""
        times: dict[str, list[float]] = {name: [] for name in names}
        for line in self.log.read_text().split("\n")[:-1]:
            said = json.loads(line) if '"poll-' in line else {}
            if said.get("request_id") in times:
                times[said["request_id"]].append(datetime.fromisoformat(said["timestamp"]).timestamp())
        return times


@pytest.fixture(scope="module")
def patience(working: Stack) -> Iterator[Patient]:
    with working.api(ASSISTANTD_POLL_SHORTEST=str(ASKED), ASSISTANTD_POLL_LONGEST=str(ASKED)) as base_url:
        yield Patient(base_url, working.newest_log)


@pytest.fixture
def patient(patience: Patient, model: RemoteModelServer) -> Iterator[Http]:
    """Plain HTTP to it."""
    http = Http(patience.base_url)
    with http.client:
        yield http


def python_command(release: str) -> tuple[list[str], dict[str, str]]:
    if release == "openai 3":
        return [sys.executable, "-c", PYTHON_PROGRAM], {}
    path = install.python_client(LOCKS / f"{release.replace(' ', '-')}.lock")
    return [sys.executable, "-P", "-s", "-S", "-c", PYTHON_PROGRAM], {"PYTHONPATH": str(path)}


def node_command(release: str, folder: Path) -> tuple[list[str], dict[str, str]]:
    (folder / "node_modules").symlink_to(install.node_clients(str(NPM)))
    program = folder / "poll.mjs"
    program.write_text(NODE_PROGRAM)
    return [str(NODE), str(program), release, releases.NODE[release].partition(".")[0]], {}


CLIENTS = [
    *(pytest.param(name, marks=pytest.mark.through(releases.python(name))) for name in releases.PYTHON),
    *(pytest.param(name, marks=pytest.mark.through(releases.node(name))) for name in releases.NODE),
]


@pytest.fixture(scope="module")
def polled() -> dict[str, Polled]:
    """What came of the pollers, by release, once there are any: they wait together."""
    return {}


@pytest.fixture
def pollers(
    polled: dict[str, Polled], patient: Http, patience: Patient, stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Polled]:
    """One of each release, each with a run of its own that goes on until all have asked often enough."""
    if polled:
        return polled
    commands = {release: python_command(release) for release in releases.PYTHON}
    if NODE is not None and NPM is not None:
        commands |= {release: node_command(release, tmp_path_factory.mktemp(release)) for release in releases.NODE}
    names: dict[str, str] = {}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "PYTHON"))}
    with ExitStack() as ends:
        processes: dict[str, subprocess.Popen[str]] = {}
        for release, (command, more) in commands.items():
            run = patient.wait(patient.start("[[text=late hold=late]]"), "in_progress")
            names[release] = f"poll-{run['id']}"
            processes[release] = subprocess.Popen(
                [*command, run["thread_id"], run["id"], names[release]],
                env={**kept, **more, "OPENAI_BASE_URL": patience.base_url, "OPENAI_API_KEY": API_KEY},
                stdout=subprocess.PIPE,
                text=True,
            )
            ends.enter_context(processes[release])
            ends.callback(processes[release].kill)
        times = until_all_have_asked(patience, names.values(), processes.values())
        stack.model.release("late")
        told = {release: process.communicate(timeout=60)[0].strip() for release, process in processes.items()}
    polled.update({release: Polled(told[release], times[name]) for release, name in names.items()})
    return polled


def until_all_have_asked(
    patience: Patient, names: Collection[str], processes: Collection["subprocess.Popen[str]"]
) -> dict[str, list[float]]:
    deadline = time.monotonic() + 120  # seven programs start at once
    while min(map(len, (found := patience.answered(names)).values())) < POLLS:
        assert time.monotonic() < deadline, found
        assert {process.poll() for process in processes} == {None}
        time.sleep(0.1)
    return {name: times[:POLLS] for name, times in found.items()}


@pytest.mark.parametrize("release", CLIENTS)
def test_case_90_pollers_ask_again_when_they_were_told_to(pollers: dict[str, Polled], release: str) -> None:
    if release not in pollers:
        pytest.skip("needs node and npm")
    polled = pollers[release]

    assert polled.told == "completed"
    pauses = [after - before for before, after in pairwise(polled.times)]
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
