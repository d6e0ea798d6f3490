"""The data folder of an embedded stack: who runs on it, where it can be reached, and the key that opens it.

    lock       held as long as a stack runs on the folder; the kernel frees it when the last holder dies
    state.json what other commands need to find the stack; only as good as the lock says
    api_key    made once, then kept
    postgres/  valkey/  files/  logs/

Everything is readable by its owner only: it holds passwords and conversations.
"""

import fcntl
import json
import os
import secrets
import shlex
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

from orchestrator.embedded.process import EmbeddedError, private_dir, write_private

DEFAULT = Path("~/.assistantd")
PATIENCE = 1.0  # a process that is being killed looks alive for a moment


@dataclass(frozen=True)
class State:
    """A running stack, as it describes itself. `pid` is the process to send SIGTERM to."""

    pid: int
    base_url: str
    api_key: str
    phase: Literal["starting", "ready"] = "starting"
    database_url: str = ""
    redis_url: str = ""
    upstream_base_url: str = ""
    processes: dict[str, int] = field(default_factory=dict)
    started_at: float = field(default_factory=time.time)

    def exports(self) -> str:
        """Two assignments for a shell's `eval`, safe whatever the values hold."""
        return f"export OPENAI_BASE_URL={shlex.quote(self.base_url)} OPENAI_API_KEY={shlex.quote(self.api_key)}"


class AlreadyRunningError(EmbeddedError):
    """Another stack runs on the same data."""


class Home:
    """One data folder; nothing is created before `create`."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or DEFAULT).expanduser().absolute()
        self._lock: int | None = None

    @property
    def logs(self) -> Path:
        """Where the processes write their logs."""
        return self.root / "logs"

    @property
    def files(self) -> Path:
        """Where the bytes of files are, unless another storage is set."""
        return self.root / "files"

    def create(self) -> None:
        """Make the folders. Raises EmbeddedError when that is not possible."""
        try:
            for folder in (self.root, self.logs):
                private_dir(folder)
            probe = self.root / "lock"
            os.close(os.open(probe, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise EmbeddedError(
                f"The data folder {self.root} cannot be used ({error.strerror}). Choose another with --data."
            ) from error

    def acquire(self, wait: float = 10.0) -> None:
        """Hold the folder until this process, and those forked from it, are gone.

        A stack that was killed still cleans up for a moment: that is waited for. Raises AlreadyRunningError.
        """
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + wait
        patience = time.monotonic() + PATIENCE
        while not _try_lock(descriptor, fcntl.LOCK_EX):
            state = self.recorded()
            alive = state is not None and _alive(state.pid) and time.monotonic() >= patience
            if alive or time.monotonic() >= deadline:
                os.close(descriptor)
                raise AlreadyRunningError(self._who_runs(state))
            time.sleep(0.05)
        self._lock = descriptor
        self.forget()  # a stack that was killed left its address: it must not pass for ours

    def release(self) -> None:
        """Give the folder free."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def running(self) -> State | None:
        """The stack that runs on this folder now, if any (`phase` says whether it serves yet)."""
        try:
            descriptor = os.open(self.root / "lock", os.O_RDWR)
        except OSError:
            return None
        try:
            # Shared, so that two who ask at once do not take each other for the stack.
            return None if _try_lock(descriptor, fcntl.LOCK_SH) else self.recorded()
        finally:
            os.close(descriptor)

    def recorded(self) -> State | None:
        """What the last stack wrote, alive or not."""
        try:
            known = {entry.name for entry in fields(State)}
            content = json.loads((self.root / "state.json").read_text())
            return State(**{key: value for key, value in content.items() if key in known})
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def record(self, state: State) -> None:
        """Let other commands find this stack."""
        write_private(self.root / "state.json", json.dumps(asdict(state), indent=1) + "\n")

    def forget(self) -> None:
        """The stack has ended."""
        (self.root / "state.json").unlink(missing_ok=True)

    def api_key(self) -> str:
        """The key of this installation, made at the first call."""
        path = self.root / "api_key"
        if not path.exists():
            write_private(path, f"sk-asst-{secrets.token_urlsafe(32)}\n")
        return path.read_text().strip()

    def _who_runs(self, state: State | None) -> str:
        if state is None:
            return f"assistantd is already running on {self.root}. Stop it first, or choose another folder with --data."
        return (
            f"assistantd is already running on {self.root} (process {state.pid}, {state.base_url}). "
            "Use that one, stop it first, or choose another folder with --data and another --port."
        )


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
