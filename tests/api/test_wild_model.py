"""A model server that hangs, sends garbage, or does not come to an end: every run ends, and nobody else notices.

All the trouble happens at once, to one worker, while others ask it something: the tests look at what came of it.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.api.checks import Json
from tests.api.http import Http, path_of, text_of
from tests.api.test_upstream_trouble import SORRY
from tests.fakes.model_control import RemoteModelServer
from tests.fakes.wild_server import MANNERS, WildServer
from tests.stack import Stack

ENDLESS = ("comments for ever", "empty deltas for ever", "a word now and then", "byte after byte")
"""Answers that are never silent for long: only the run's own time ends them."""
SAID = {
    "a large token": "x" * 1_000_000,
    "bytes that are no utf-8": "caf\N{REPLACEMENT CHARACTER}",
    **dict.fromkeys(("negative usage", "boundless usage", "infinite usage"), "ok"),
}
"""Answers that are answers all the same."""
FAILING = sorted(MANNERS.keys() - SAID.keys() - set(ENDLESS))
ABORTED = (
    "silence",
    "silence after headers",
    "silence after two words",
    "endless document",
    "endless header",
    "endless line",
    *ENDLESS,
)
"""Answers that were not over when the run was: nobody may go on listening."""
ROOM = 256 * 1024 * 1024
"""Bytes that all of it may take in memory, at most, for a moment."""


@dataclass
class Aftermath:
    """What became of the runs, and of the worker that had them."""

    runs: dict[str, Json]
    others: list[Json]
    memory: int


@pytest.fixture(scope="module")
def server() -> Iterator[WildServer]:
    with WildServer() as server:
        yield server


@pytest.fixture(scope="module")
def aftermath(working: Stack, server: WildServer) -> Iterator[Aftermath]:
    """All the trouble at once. The model may be silent for some seconds; where it never is, runs live for five."""
    broker = {"REDIS_URL": working.environment["REDIS_URL"].removesuffix("/0") + "/4"}
    impatient = {"ASSISTANTD_UPSTREAM_RETRIES": "0", "ASSISTANTD_UPSTREAM_READ_TIMEOUT": "4"}
    worker = working.start_worker(**broker, **impatient, UPSTREAM_BASE_URL=server.base_url)
    with (
        working.api(**broker) as plainly,
        working.api(**broker, ASSISTANTD_RUN_LIFETIME="5") as briefly,
        (plain := Http(plainly)).client,
        (brief := Http(briefly)).client,
    ):
        plain.wait(plain.start("Hi"))
        before = _peak(worker.pid)
        begun = {manner: brief.start(f"[{manner}]") for manner in ENDLESS}
        _until(lambda: all(server.asked[manner] for manner in ENDLESS))
        begun |= {manner: plain.start(f"[{manner}]") for manner in MANNERS if manner not in begun}
        others = [plain.wait(plain.start("Hi")) for _ in range(10)]
        runs = {manner: plain.wait(run) for manner, run in begun.items()}
        yield Aftermath(runs, others, _peak(worker.pid) - before)
    assert worker.poll() is None
    working.stop(worker)


def _until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _peak(pid: int) -> int:
    """The most memory that a process has ever had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@pytest.mark.parametrize("manner", FAILING)
def test_a_run_that_gets_no_answer_fails(http: Http, aftermath: Aftermath, manner: str) -> None:
    run = aftermath.runs[manner]

    assert (run["status"], run["last_error"]) == ("failed", SORRY)
    assert {step["status"] for step in http.steps(run)} <= {"failed"}


def test_what_was_heard_before_the_silence_is_kept(http: Http, aftermath: Aftermath) -> None:
    message = http.messages(aftermath.runs["silence after two words"]["thread_id"])[-1]

    assert (message["status"], text_of(message)) == ("incomplete", "one two")


@pytest.mark.parametrize("manner", ENDLESS)
def test_a_run_whose_answer_does_not_end_expires(http: Http, aftermath: Aftermath, manner: str) -> None:
    run = aftermath.runs[manner]

    assert (run["status"], run["last_error"]) == ("expired", None)
    assert {step["status"] for step in http.steps(run)} <= {"expired"}


def test_what_came_word_by_word_is_kept_until_the_run_expires(http: Http, aftermath: Aftermath) -> None:
    message = http.messages(aftermath.runs["a word now and then"]["thread_id"])[-1]

    assert (message["status"], message["incomplete_details"]) == ("incomplete", {"reason": "run_expired"})
    assert set(text_of(message).split()) == {"word"}


@pytest.mark.parametrize("manner", SAID)
def test_an_answer_with_something_odd_in_it_is_an_answer(http: Http, aftermath: Aftermath, manner: str) -> None:
    run = aftermath.runs[manner]

    assert (run["status"], run["last_error"]) == ("completed", None)
    assert text_of(http.messages(run["thread_id"])[-1]) == SAID[manner]


@pytest.mark.parametrize("manner", [manner for manner in SAID if "usage" in manner])
def test_a_usage_that_cannot_be_is_counted_here(aftermath: Aftermath, manner: str) -> None:
    usage = aftermath.runs[manner]["usage"]

    assert 0 < usage["prompt_tokens"] < 100
    assert usage["completion_tokens"] == 1
    assert usage["total_tokens"] == usage["prompt_tokens"] + 1


@pytest.mark.parametrize("manner", MANNERS)
def test_its_thread_is_free_again(http: Http, model: RemoteModelServer, aftermath: Aftermath, manner: str) -> None:
    run = aftermath.runs[manner]

    http.post(f"/threads/{run['thread_id']}/messages", {"role": "user", "content": "Anybody there?"})

    assert http.get(path_of(run)) == run


@pytest.mark.parametrize("manner", ABORTED)
def test_nobody_goes_on_listening(aftermath: Aftermath, server: WildServer, manner: str) -> None:
    _until(lambda: server.left(manner))


@pytest.mark.parametrize("manner", MANNERS)
def test_no_answer_is_asked_for_twice(aftermath: Aftermath, server: WildServer, manner: str) -> None:
    assert server.asked[manner] == 1


def test_nobody_else_notices(aftermath: Aftermath) -> None:
    assert [run["status"] for run in aftermath.others] == ["completed"] * 10


def test_it_takes_no_more_memory_than_there_is_room_for(aftermath: Aftermath) -> None:
    assert aftermath.memory < ROOM
