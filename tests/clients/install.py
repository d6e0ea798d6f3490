"""Install other releases of the official clients on first use, into a folder of the repository that git ignores.

    python -m tests.clients.install        all of them, beforehand

A finished folder is only ever moved into its place as a whole, under a name made of its lock file's hash: an
interrupted installation leaves nothing that looks finished, and a new lock gets a new folder. Who needs what somebody
else is just installing waits for it.

Without a network, tests that need a client fail, because a suite that skips by itself proves nothing. Whoever knows
that there is none sets ASSISTANTD_TEST_OFFLINE=1: then what is not yet installed is skipped.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
LOCKS = ("openai-1.lock", "openai-2.lock")
INSTALLED = HERE.parents[1] / ".clients"
OFFLINE = "ASSISTANTD_TEST_OFFLINE"
INSTALL_TIMEOUT = 300.0
TEST_TIMEOUT = 2 * INSTALL_TIMEOUT + 120
"""Somebody else's installation may be waited for, and fail."""


def all_told(tell: Callable[[str], Any], among: Iterable[str]) -> dict[str, Any]:
    """What `tell` returns for each release: two talk at the same time, or are installed, as there are cores for it."""
    with ThreadPoolExecutor(2) as pool:
        telling = {release: pool.submit(tell, release) for release in among}
    return {release: told.result() for release, told in telling.items()}


def python_client(lock: Path) -> Path:
    """The folder with what `lock` pins, for PYTHONPATH."""

    def fill(folder: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
        exact = ["--require-hashes", "--only-binary", ":all:", "--no-deps", "--no-compile"]
        _run([*pip, *exact, "--target", str(folder), "-r", str(lock)], cwd=folder)

    # The lock holds for every platform, what is installed from it for one.
    interpreter = f"{sys.implementation.cache_tag}-{sysconfig.get_platform()}"
    return _installed(lock.stem, [lock.read_bytes(), interpreter.encode()], fill)


def node_clients(npm: str) -> Path:
    """The `node_modules` folder with all releases of the Node client."""
    sources = [HERE / "node" / name for name in ("package.json", "package-lock.json", ".npmrc")]

    def fill(folder: Path) -> None:
        for source in sources:
            shutil.copy(source, folder)
        _run([npm, "ci", "--loglevel", "error"], cwd=folder)

    return _installed("node", [source.read_bytes() for source in sources], fill) / "node_modules"


def _installed(name: str, depends_on: Sequence[bytes], fill: Callable[[Path], None]) -> Path:
    digest = hashlib.sha256(b"\0".join(depends_on)).hexdigest()[:16]
    folder = INSTALLED / f"{name}-{digest}"
    if folder.is_dir():
        return folder
    if os.environ.get(OFFLINE):
        pytest.skip(f"{name} is not installed yet, and {OFFLINE} is set")
    INSTALLED.mkdir(exist_ok=True)
    with (INSTALLED / f".{name}.lock").open("w") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=INSTALLED, prefix=".new-", ignore_cleanup_errors=True) as temporary:
                new = Path(temporary) / name
                new.mkdir()
                fill(new)
                new.rename(folder)
    return folder


def _run(command: Sequence[str], *, cwd: Path) -> None:
    done = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=False
    )
    if done.returncode:
        hint = f"Without a network, set {OFFLINE}=1 to skip what needs it."
        pytest.fail(f"{' '.join(command)}\nended with {done.returncode}. {hint}\n{done.stderr[-4000:]}", pytrace=False)


if __name__ == "__main__":
    for name in LOCKS:
        python_client(HERE / name)
    if npm := shutil.which("npm"):
        node_clients(npm)
