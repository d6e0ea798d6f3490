"""The supervisor: parts start, are restarted, stop in order, and nothing survives whoever is killed."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.embedded.home import AlreadyRunningError, Home
from orchestrator.embedded.supervisor import MAX_FAILURES
from tests.integration.clusters import postgres_on

LITTLE_STACK = Path(__file__).with_name("little_stack.py")
ROOT = Path(__file__).parents[2]

# A child that leaves a daemon behind: a process in a session of its own whose parent is gone.
FORKER = "import os, time; os.fork() or (os.setsid(), os.fork() and os._exit(0)); time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
QUIET = "import time; time.sleep(600)"
SHORT_LIVED = """
import os, pathlib, time
mark = pathlib.Path(os.environ["MARKS"], str(os.getpid()))
mark.with_suffix(".ready").touch()
while not mark.with_suffix(".seen").exists():
    time.sleep(0.01)
raise SystemExit("something kills it")
"""
CRASHING = "raise SystemExit('the worker says why')"


class LittleStack:
    """little_stack.py as a child of ours, whose lines can be waited for."""

    def __init__(self, folder: Path, worker: str, **environment: str) -> None:
        self.folder = folder
        if not (folder / "postgres").exists():
            postgres_on(folder)
        self.child = subprocess.Popen(
            [sys.executable, "-P", LITTLE_STACK, folder, sys.executable, "-I", "-S", "-c", worker],
            env=os.environ | {"PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []

    def until(self, line: str) -> None:
        """Read until a line begins like this; the test's own time limit is the deadline."""
        assert self.child.stdout is not None
        for read in self.child.stdout:
            self.lines.append(read.rstrip("\n"))
            if read.startswith(line):
                return
        pytest.fail(f"ended without {line!r}: {self.lines}")

    def rest(self) -> list[str]:
        """What it says until it ends."""
        assert self.child.stdout is not None
        return [line.rstrip("\n") for line in self.child.stdout]

    @property
    def supervisor(self) -> int:
        state = Home(self.folder).running()
        assert state is not None
        return state.pid

    def processes(self) -> list[psutil.Process]:
        return list(psutil.Process(self.child.pid).children(recursive=True))

    def end(self) -> None:
        """Leave nothing behind, whatever the test found."""
        everyone = self.processes() if self.child.poll() is None else []
        self.child.kill()
        self.child.wait(10)
        for process in everyone:
            if process.is_running():
                process.kill()
        if self.child.stdout:
            self.child.stdout.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="assistantd-test-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def stacks(folder: Path) -> Iterator[list[LittleStack]]:
    started: list[LittleStack] = []
    yield started
    for stack in started:
        stack.end()


def serving(stacks: list[LittleStack], folder: Path, worker: str) -> LittleStack:
    stack = LittleStack(folder, worker)
    stacks.append(stack)
    stack.until("serving")
    return stack


@pytest.mark.skipif(sys.platform != "linux", reason="needs a subreaper")
@pytest.mark.parametrize("victim", ["supervisor", "warden"])
def test_a_killed_stack_leaves_no_process_behind(folder: Path, stacks: list[LittleStack], victim: str) -> None:
    stack = serving(stacks, folder, FORKER)
    everyone = stack.processes()

    os.kill(stack.supervisor if victim == "supervisor" else stack.child.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(everyone, timeout=30)

    assert len(everyone) > 5  # supervisor, postgres and its own, valkey, worker, the daemon that it left
    assert alive == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_parts_in_order(folder: Path, stacks: list[LittleStack], number: signal.Signals) -> None:
    stack = serving(stacks, folder, QUIET)
    everyone = stack.processes()

    stack.child.send_signal(number)
    said = stack.rest()

    assert said == ["stopping worker", "stopping valkey", "stopping postgres"]
    assert stack.child.wait(10) == 0
    assert not any(process.is_running() for process in everyone)
    assert Home(folder).running() is None


def test_a_part_that_does_not_stop_is_stopped_by_force(folder: Path, stacks: list[LittleStack]) -> None:
    stack = serving(stacks, folder, STUBBORN)

    stack.child.send_signal(signal.SIGTERM)
    stack.rest()

    assert stack.child.wait(10) == 0


def test_a_part_that_crashes_is_started_again(folder: Path, stacks: list[LittleStack]) -> None:
    stack = serving(stacks, folder, QUIET)
    state = Home(folder).running()
    assert state is not None

    os.kill(state.processes["worker"], signal.SIGKILL)
    stack.until("trouble worker ended by SIGKILL; starting it again in 0.02 s")
    stack.until("ready worker")
    stack.child.send_signal(signal.SIGTERM)
    stack.rest()

    assert stack.child.wait(10) == 0


def test_a_part_that_never_stays_up_is_given_up_with_its_last_words(folder: Path, stacks: list[LittleStack]) -> None:
    stack = LittleStack(folder, CRASHING)
    stacks.append(stack)

    stack.until("gave up")

    assert any("the worker says why" in line for line in stack.lines)
    assert "gave up worker does not stay up: it ended 6 times in a row" in stack.lines[-1]
    assert stack.child.wait(10) == 1


def test_a_part_that_serves_each_time_before_it_dies_is_never_given_up(
    folder: Path, stacks: list[LittleStack], tmp_path: Path
) -> None:
    stack = LittleStack(folder, SHORT_LIVED, MARKS=str(tmp_path))
    stacks.append(stack)

    stack.until("serving")
    for _ in range(MAX_FAILURES + 1):
        stack.until("trouble worker ended")
    stack.child.send_signal(signal.SIGTERM)
    stack.rest()

    assert stack.child.wait(30) == 0


def test_a_second_stack_on_the_same_data_is_told_who_runs(folder: Path, stacks: list[LittleStack]) -> None:
    stack = serving(stacks, folder, QUIET)

    with pytest.raises(AlreadyRunningError, match=rf"process {stack.supervisor}, http://127.0.0.1:1/v1"):
        Home(folder).acquire()


def test_a_stack_can_be_started_again_at_once_after_it_was_killed(folder: Path, stacks: list[LittleStack]) -> None:
    stack = serving(stacks, folder, QUIET)

    os.kill(stack.supervisor, signal.SIGKILL)
    home = Home(folder)
    home.acquire(wait=20)
    home.release()

    assert home.running() is None
