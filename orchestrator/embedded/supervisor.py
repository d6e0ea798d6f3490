"""Starts the parts of a stack, keeps them running, and stops them in order.

A part that ends by itself is started again after a pause that grows. A part that does not come up is given up, and the
stack with it; one that had served before it ended is not: a run that kills its workers is given up, not the workers.
Signals only set a flag: every wait in here is short and looks at it.
"""

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.embedded.process import EmbeddedError, Process, StartError
from orchestrator.embedded.warden import collect_orphans

TICK = 0.1
LONGEST_PAUSE = 10.0
MAX_FAILURES = 6  # in a row, of starts after which it never served
LAST_WORDS = 6  # lines of a log
STABLE_AFTER = 30.0  # seconds of life after which earlier failures no longer count
FORCE_AFTER = 1.0  # one Ctrl-C may arrive twice; a second one counts only after this


class StopRequested(Exception):
    """Somebody asked for the end while the stack was starting."""


class Narrator(Protocol):
    """Tells the person at the terminal what goes on."""

    def starting(self, name: str) -> None:
        """A part is being started."""

    def ready(self, name: str, seconds: float) -> None:
        """A part serves."""

    def trouble(self, text: str, tail: str = "") -> None:
        """Something went wrong; `tail` is what the part wrote last."""

    def stopping(self, *names: str) -> None:
        """These parts are asked to end, together; those before them have ended."""


@dataclass
class Part:
    """A process of the stack. `spawn` starts it, again after a crash; parts of a lower `stop_stage` end first."""

    name: str
    spawn: Callable[[], Process]
    ready_within: float = 60.0
    stop_within: float = 10.0
    stop_stage: int = 0
    first_pause: float = 0.5  # before it is started again; doubled with each further failure

    process: Process | None = field(default=None, init=False)
    spawned_at: float = field(default=0.0, init=False)
    failures: int = field(default=0, init=False)  # in a row, which the pauses grow with
    fruitless: int = field(default=0, init=False)  # in a row, of starts after which it never served
    served: bool = field(default=False, init=False)
    again_at: float | None = field(default=None, init=False)
    recovering: bool = field(default=False, init=False)

    def start(self) -> None:
        """Start the process and return at once."""
        self.again_at, self.served = None, False
        self.spawned_at = time.monotonic()
        self.process = self.spawn()

    @property
    def age(self) -> float:
        """Seconds since it was started last."""
        return time.monotonic() - self.spawned_at

    def pause(self) -> float:
        """Count a failure; how long to wait before the next attempt."""
        stable = self.age > STABLE_AFTER
        self.failures = 1 if stable else self.failures + 1
        self.fruitless = 0 if self.served else 1 if stable else self.fruitless + 1
        return min(self.first_pause * 2.0 ** (self.failures - 1), LONGEST_PAUSE)


class Supervisor:
    """Owns the running parts, in the order in which they were started."""

    def __init__(self, narrator: Narrator, on_change: Callable[[], None] = lambda: None) -> None:
        self.narrator = narrator
        self.on_change = on_change
        self.parts: list[Part] = []
        self._asked_at: float | None = None
        self._forced = False

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Have SIGINT, SIGTERM and SIGHUP stop the stack in order."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = [signal.signal(number, self._on_signal) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def launch(self, part: Part) -> None:
        """Start a part without waiting for it."""
        self._check()
        self.narrator.starting(part.name)
        self.parts.append(part)
        part.start()
        self.on_change()

    def await_ready(self, *parts: Part) -> None:
        """Wait until all of them serve. Raises StartError, or StopRequested when the end was asked for."""
        waiting = list(parts)
        while waiting:
            self._check()
            for part in list(waiting):
                process = _process(part)
                if process.ready():
                    part.served = process.is_probed
                    self.narrator.ready(part.name, part.age)
                    waiting.remove(part)
                elif part.age > part.ready_within:
                    raise process.failure(f"was not ready within {part.ready_within:.0f} seconds")
            time.sleep(TICK / 5)

    def run_once(self, process: Process, timeout: float) -> None:
        """Run a process to its end. Raises StartError when it fails."""
        self.narrator.starting(process.name)
        begin = time.monotonic()
        process.spawn()
        try:
            while (code := process.exit_code()) is None:
                self._check()
                if time.monotonic() - begin > timeout:
                    raise process.failure(f"was not done within {timeout:.0f} seconds")
                time.sleep(TICK / 5)
        finally:
            process.kill()
        if code:
            raise process.failure(f"ended with exit code {code}")
        self.narrator.ready(process.name, time.monotonic() - begin)

    def watch(self) -> None:
        """Keep all parts running until the end is asked for. Raises EmbeddedError when a part does not stay up."""
        while self._asked_at is None:
            for part in self.parts:
                self._look_after(part)
            collect_orphans({part.process.pid for part in self.parts if part.process and part.process.pid})
            time.sleep(TICK)

    def stop(self) -> None:
        """End all parts, stage by stage, last started first; returns when none is left."""
        for stage in sorted({part.stop_stage for part in self.parts}):
            self._end([part for part in reversed(self.parts) if part.stop_stage == stage])
        self.parts.clear()

    def _on_signal(self, number: int, _frame: object) -> None:
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
        elif number == signal.SIGINT and now - self._asked_at > FORCE_AFTER:
            self._forced = True

    def _check(self) -> None:
        if self._asked_at is not None:
            raise StopRequested

    def _look_after(self, part: Part) -> None:
        if part.again_at is not None:
            if time.monotonic() >= part.again_at:
                self._start_again(part)
            return
        process = _process(part)
        if process.exit_code() is None:
            if part.recovering and _serves(process):
                part.recovering, part.served = False, process.is_probed
                self.narrator.ready(part.name, part.age)
            return
        process.kill_group()  # what it had started must not meet its successor
        self._plan_restart(part, f"{part.name} {process.how_ended()}", process.tail(LAST_WORDS))

    def _start_again(self, part: Part) -> None:
        self.narrator.starting(part.name)
        try:
            part.start()
            part.recovering = True
        except EmbeddedError as error:
            self._plan_restart(part, str(error), "")
        self.on_change()

    def _plan_restart(self, part: Part, what: str, tail: str) -> None:
        pause = part.pause()
        if part.fruitless >= MAX_FAILURES:
            self.narrator.trouble(what, tail)
            raise EmbeddedError(
                f"{part.name} does not stay up: it ended {part.fruitless} times in a row. Everything is stopped."
            )
        part.again_at = time.monotonic() + pause
        self.narrator.trouble(f"{what}; starting it again in {pause:g} s", tail)

    def _end(self, parts: Sequence[Part]) -> None:
        running = [(part, process) for part in parts if (process := part.process)]
        if names := [part.name for part, process in running if process.exit_code() is None]:
            self.narrator.stopping(*names)
        for _, process in running:
            process.ask_to_end()
        deadline = time.monotonic()
        limits = {part.name: deadline + part.stop_within for part in parts}
        while left := [pair for pair in running if pair[1].exit_code() is None]:
            now = time.monotonic()
            _kill(process for part, process in left if self._forced or now > limits[part.name])
            time.sleep(TICK / 5)
        for _, process in running:
            process.kill_group()


def _kill(processes: Iterable[Process]) -> None:
    for process in processes:
        process.kill()


def _serves(process: Process) -> bool:
    try:
        return process.ready()
    except StartError:  # it ended since we looked; the next look finds that
        return False


def _process(part: Part) -> Process:
    if part.process is None:
        raise EmbeddedError(f"{part.name} was never started")
    return part.process
