"""Makes `.venv` and installs a lock file into it. `./assistantd` runs it by path: standard library only.

Whoever comes second waits for the first. The folder `.venv/.assistantd` holds copies of the lock files that are
installed: it is written last, so that an installation that was interrupted is taken up again. Everything is said on
standard error, since `env` is evaluated by shells.
"""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

RUNTIME, DEV = "requirements.lock", "requirements-dev.lock"
MARK = ".assistantd"
PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input", "install")
STRICT = ("--require-hashes", "--only-binary", ":all:", "--no-deps", "--no-compile", "--progress-bar", "off")
# What would send the packages elsewhere, or keep pip from saying what it does.
MISLEADING = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIRE_VIRTUALENV", "PIP_QUIET")
MOST_COMPILERS = 8
TAIL = 15


def say(text: str, *, passing: bool = False) -> None:
    """One line; a passing one is overwritten by the next on a terminal and left out elsewhere."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\r\033[K{text[:width] if passing else text}" + ("" if passing else "\n"))
    elif not passing:
        sys.stderr.write(text + "\n")
    sys.stderr.flush()


def give_up(why: str, *details: str) -> NoReturn:
    """Say why in one sentence, then what may help, and leave."""
    say(f"assistantd: {why}")
    for line in details:
        say(f"  {line}")
    sys.exit(1)


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Let one process at a time install."""
    descriptor = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another ./assistantd is installing; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            say("this file system has no locks: do not start ./assistantd twice at once now", passing=True)
        yield
    finally:
        os.close(descriptor)


class Venv:
    """The virtual environment beside the lock files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / ".venv"
        self.python = self.path / "bin" / "python"
        self.mark = self.path / MARK

    def holds(self, lock: str) -> bool:
        """Whether exactly this lock file is installed, for the interpreter that is there now."""
        copy = self.mark / lock
        return copy.exists() and copy.read_bytes() == (self.root / lock).read_bytes() and self.works()

    def works(self) -> bool:
        """Whether its interpreter runs, is new enough, is the one it was made with, and has pip."""
        code = (
            "import os, sys, pip; sys.exit(sys.version_info < (3, 11) or not os.path.samefile(sys.prefix, sys.argv[1]))"
        )
        try:
            argv = [str(self.python), "-I", "-c", code, str(self.path)]
            return subprocess.run(argv, capture_output=True, timeout=60, check=False).returncode == 0
        except (OSError, subprocess.TimeoutExpired):
            return False

    def make(self) -> None:
        """Have one that works; what is in the way is removed if it is ours and set aside if it is not."""
        if self.works():
            self.mark.mkdir(exist_ok=True)
            return
        if self.mark.exists():
            shutil.rmtree(self.path)
        elif self.path.exists() or self.path.is_symlink():
            aside = self._aside()
            self.path.rename(aside)
            say(f"the folder .venv does not suit (it was not made by assistantd); it is now called {aside.name}")
        say(f"making .venv with Python {sys.version.split()[0]}")
        self.mark.mkdir(parents=True)
        made = subprocess.run(
            [sys.executable, "-I", "-m", "venv", str(self.path)], capture_output=True, text=True, check=False
        )
        if made.returncode:
            version = "{}.{}".format(*sys.version_info[:2])
            said = (made.stdout + made.stderr).strip().splitlines()[-TAIL:]
            give_up("the virtual environment could not be made.", *said, f"On Debian: apt install python{version}-venv")

    def install(self, lock: str) -> None:
        """Install a lock file, wheels only, each checked against its hash."""
        total = len(re.findall(r"^[A-Za-z0-9]", (self.root / lock).read_text(), re.MULTILINE))
        say(f"installing up to {total} packages (this happens once)")
        environment = {key: value for key, value in os.environ.items() if key not in MISLEADING}
        argv = [str(self.python), *PIP, *STRICT, "-r", str(self.root / lock)]
        said: list[str] = []
        with subprocess.Popen(
            argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as pip:
            for line in pip.stdout or ():
                said.append(line.rstrip())
                self._show(line, said, total)
        if pip.returncode:
            say("", passing=True)
            give_up(
                "the packages could not be installed. The last lines of pip:",
                *said[-TAIL:],
                "Check the network, and pip's configuration if you use a mirror, then run the same command again.",
                f"If Python {sys.version.split()[0]} is what pip dislikes, name another: ASSISTANTD_PYTHON=python3.11",
            )
        self._compile(environment)

    def seal(self, *locks: str) -> None:
        """Write down what is installed. The last step: nobody must believe in half an installation."""
        for name in (RUNTIME, DEV):
            (self.mark / name).unlink(missing_ok=True)
        (self.mark / "python").write_text(f"{self.python.stat().st_ino}\n")
        for lock in locks:
            shutil.copyfile(self.root / lock, self.mark / lock)

    def _show(self, line: str, said: list[str], total: int) -> None:
        if line.startswith("Collecting "):
            count = sum(one.startswith("Collecting ") for one in said)
            say(f"  {count}/{total} {line.split()[1].partition('==')[0]}", passing=True)
        elif line.startswith("Installing collected"):
            say("  unpacking", passing=True)

    def _compile(self, environment: dict[str, str]) -> None:
        """Everything, by several processes (pip would by one): else the first starts would take seconds longer."""
        say("  compiling", passing=True)
        folders = [str(self.root / name) for name in ("api", "orchestrator", "workers")]
        folders += map(str, self.path.glob("lib/python*/site-packages"))
        compilers = min(MOST_COMPILERS, os.cpu_count() or 1)
        for jobs in (compilers, 1):  # where there can be no several, one does it; it skips what is done
            argv = [str(self.python), "-I", "-m", "compileall", "-q", "-j", str(jobs), *folders]
            if subprocess.run(argv, env=environment, capture_output=True, check=False).returncode == 0:
                break

    def _aside(self) -> Path:
        number = 1
        while (aside := self.root / f".venv.{number}").exists():
            number += 1
        return aside


def main() -> None:
    """Install what is missing."""
    root, wanted = Path(sys.argv[1]), sys.argv[2]
    with alone(root):
        venv = Venv(root)
        try:
            has_dev = (venv.mark / DEV).exists()
            locks = [RUNTIME, DEV] if wanted == DEV or has_dev else [RUNTIME]
            if not all(venv.holds(lock) for lock in locks):
                venv.make()
                venv.install(locks[-1])
            venv.seal(*locks)
        except OSError as error:
            give_up(
                f"{error.filename or venv.path} cannot be written ({error.strerror}). Does this folder belong to you?"
            )
        say("", passing=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        say("stopped; the next start continues")
        sys.exit(130)
