"""A child process that cannot outlive us, with a log file, a readiness probe and an end that always comes.

Start processes from a thread that lives as long as they shall (see launch.py): the main thread.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.errors import AssistantdError

LAUNCHER = Path(__file__).with_name("launch.py")
LOCKED, DENIED = 75, 77  # exit codes of launch.py
LOCK_WAIT = 5.0  # a server that was killed may still be writing
LOG_LIMIT = 8 * 1024 * 1024
POLL = 0.02


class EmbeddedError(AssistantdError):
    """A part of the embedded stack does not work. The text says what is wrong and what to do."""


class StartError(EmbeddedError):
    """A process ended before it was ready, or took too long. Carries the last lines that it wrote."""

    def __init__(self, name: str, why: str, log: Path, tail: str) -> None:
        super().__init__(f"{name} {why}. Its log: {log}")
        self.name = name
        self.log = log
        self.tail = tail


def launcher(argv: Sequence[str | Path], **options: object) -> list[str]:
    """The command line that runs `argv` through launch.py with these options (those that are None are left out)."""
    given = {key: value for key, value in options.items() if value is not None}
    return [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), json.dumps(given), *map(str, argv)]


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def private_dir(path: Path) -> Path:
    """The directory, created if missing, readable by its owner only."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step; nobody but the owner can read it, not even for a moment."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    new.replace(path)


def rotate(log: Path, limit: int = LOG_LIMIT) -> None:
    """Keep one older log; called at each start, so that logs stay bounded over restarts."""
    if log.exists() and log.stat().st_size > limit:
        log.replace(log.with_name(log.name + ".1"))


def tail_of(log: Path, lines: int = 15, since: int = 0) -> str:
    """The last lines of a log, from byte `since` on; empty when there is none."""
    try:
        with log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(min(since, end), end - 64 * 1024))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def runs() -> bool:
    """The probe of a process that is ready when it runs."""
    return True


@dataclass
class Process:
    """One child. `probe` says whether it is ready to serve; without one it is ready when it runs."""

    name: str
    argv: Sequence[str | Path]
    log: Path
    env: Mapping[str, str] | None = None
    cwd: Path = Path("/")
    probe: Callable[[], bool] = runs
    stop_signal: signal.Signals = signal.SIGTERM
    die_signal: signal.Signals = signal.SIGKILL
    launch: Mapping[str, object] = field(default_factory=dict)

    _child: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    _log_start: int = field(default=0, init=False, repr=False)

    @property
    def pid(self) -> int | None:
        """Its process id, which is also its process group's; None when it was never started."""
        return self._child.pid if self._child else None

    def spawn(self) -> None:
        """Start it and return at once."""
        rotate(self.log)
        argv = launcher(self.argv, **{"die": int(self.die_signal), **self.launch})
        with os.fdopen(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
            self._log_start = log.seek(0, os.SEEK_END)
            self._child = subprocess.Popen(
                argv,
                env=self.env,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal reaches the supervisor only
            )

    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._child.poll() if self._child else 0

    def ready(self) -> bool:
        """Whether it serves by now. Raises StartError when it has ended."""
        code = self.exit_code()
        if code is not None:
            raise self.failure(self.how_ended())
        return self.probe()

    @property
    def is_probed(self) -> bool:
        """Whether `ready` says more than that it runs."""
        return self.probe is not runs

    def wait_ready(self, timeout: float) -> None:
        """Return when it serves. Raises StartError when it ends before that or needs longer than `timeout`."""
        deadline = time.monotonic() + timeout
        while not self.ready():
            if time.monotonic() >= deadline:
                raise self.failure(f"was not ready within {timeout:.0f} seconds")
            time.sleep(POLL)

    def ask_to_end(self) -> None:
        """Send the signal on which it ends in order; harmless when it is gone."""
        if self._child and self._child.poll() is None:
            self._child.send_signal(self.stop_signal)

    def stop(self, timeout: float = 10.0) -> int:
        """Ask it to end; after `timeout` end it and its process group by force. Returns how it ended."""
        self.ask_to_end()
        return self.wait_end(timeout)

    def wait_end(self, timeout: float) -> int:
        """Wait for the end that was asked for; force it after `timeout`."""
        child = self._child
        if child is None:
            return 0
        try:
            child.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
        return child.wait(timeout=10)

    def kill(self) -> None:
        """End it and its process group by force; harmless when it is gone."""
        if self._child and self._child.poll() is None:
            self.kill_group()

    def kill_group(self) -> None:
        """End by force what it left behind in its process group."""
        if self._child:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signal.SIGKILL)

    def tail(self, lines: int = 15) -> str:
        """What it wrote last, since it was started."""
        return tail_of(self.log, lines, self._log_start)

    def how_ended(self) -> str:
        """The rest of the sentence that its name begins."""
        return f"ended {_how(self.exit_code() or 0)}"

    def failure(self, why: str) -> StartError:
        """The error that says why it did not come up, with its last lines."""
        return StartError(self.name, why, self.log, self.tail())


def _how(code: int) -> str:
    if code == LOCKED:
        return "at once: another process serves the same data"
    if code >= 0:
        return f"with exit code {code}"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"
