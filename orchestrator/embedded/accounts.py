"""Under which identity Postgres runs: it refuses root, and this project must also work where root is all there is.

Whoever starts us decides which of three ways is taken:

    normal user      itself
    root, userns     a user namespace in which root appears as `nobody`: nothing on disk changes owner or mode, and the
                     data may lie under a root-only directory
    root, setuid     where user namespaces are denied (many containers), or where the data belongs to another account:
                     that account owns the data, and gets its own copy of the programs if it cannot reach ours
"""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from orchestrator.embedded.process import EmbeddedError, launcher

Mode = Literal["plain", "userns", "setuid"]
COPIES = Path("/var/lib/assistantd")


@dataclass(frozen=True)
class Identity:
    """Who a server is. `launch` are the options for launch.py."""

    mode: Mode
    account: pwd.struct_passwd | None = None

    @property
    def launch(self) -> dict[str, object]:
        """What launch.py needs to take this identity on."""
        if self.account is None:
            return {}
        if self.mode == "userns":
            return {"userns": self.account.pw_uid}
        return {"account": [self.account.pw_uid, self.account.pw_gid]}


def identity_for(data_dir: Path, mode: Mode | None = None) -> Identity:
    """The identity that can serve `data_dir`. Raises EmbeddedError when there is none."""
    owner = data_dir.stat().st_uid if data_dir.exists() else os.geteuid()
    if os.geteuid() != 0:
        if owner != os.geteuid():
            raise EmbeddedError(
                f"{data_dir} belongs to {_name(owner)}. Run as that user, or choose another --data folder."
            )
        return Identity("plain")
    if mode is None:
        mode = "userns" if owner == 0 and user_namespaces_work() else "setuid"
    if mode == "userns":
        return Identity("userns", _unprivileged())
    return Identity("setuid", pwd.getpwuid(owner) if owner else _unprivileged("postgres"))


@lru_cache(maxsize=1)
def user_namespaces_work() -> bool:
    """Whether the kernel lets root appear as somebody else to a child."""
    try:
        argv = launcher(["/bin/sh", "-c", ":"], userns=_unprivileged().pw_uid)
        return subprocess.run(argv, timeout=10, stderr=subprocess.DEVNULL, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def reachable_programs(programs: Path, identity: Identity) -> Path:
    """`programs` (an installation's bin folder), or a copy of the installation that the identity can reach."""
    account = identity.account
    if identity.mode != "setuid" or account is None or _can_run(programs / "postgres", account):
        return programs
    installation = programs.parent
    package = installation.parent
    built = (programs / "postgres").stat()
    copy = COPIES / f"{package.name}-{built.st_size:x}-{int(built.st_mtime):x}"  # another version is another copy
    if not copy.exists():
        new = copy.with_name(f"{copy.name}.{os.getpid()}")
        # The wheel's libraries are found relative to the programs: keep the arrangement.
        for libraries in package.parent.glob(f"{package.name}*.libs"):
            shutil.copytree(libraries, new / libraries.name, symlinks=True)
        shutil.copytree(installation, new / package.name / installation.name, symlinks=True)
        for folder in (COPIES, new, new / package.name):
            folder.chmod(0o755)
        new.rename(copy)
    return copy / package.name / installation.name / "bin"


def hand_over(data_dir: Path, identity: Identity) -> None:
    """Give the folder to the identity's account. Raises EmbeddedError when that account cannot reach it."""
    account = identity.account
    if identity.mode != "setuid" or account is None:
        return
    for path in _tree(data_dir):
        if path.lstat().st_uid != account.pw_uid:
            os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
    if not _can_run(data_dir, account):
        raise EmbeddedError(
            f"Postgres must not run as root, and the account {account.pw_name} cannot reach {data_dir}. "
            "Choose one that other accounts can reach (--data /var/lib/assistantd-data), or run as a normal user."
        )


def _tree(folder: Path) -> Iterator[Path]:
    yield folder
    yield from folder.rglob("*")


def _can_run(path: Path, account: pwd.struct_passwd) -> bool:
    argv = launcher(["/bin/sh", "-c", 'test -x "$1"', "sh", path], account=[account.pw_uid, account.pw_gid])
    return subprocess.run(argv, timeout=10, stderr=subprocess.DEVNULL, check=False, cwd="/").returncode == 0


def _unprivileged(*preferred: str) -> pwd.struct_passwd:
    """An account that is not root's; it must exist, since initdb looks its name up."""
    accounts = {entry.pw_name: entry for entry in pwd.getpwall() if entry.pw_uid != 0}
    for name in (*preferred, "nobody", *accounts):
        if name in accounts:
            return accounts[name]
    raise EmbeddedError(
        "Postgres must not run as root, and there is no other account here. Create one, or set DATABASE_URL."
    )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


if sys.platform == "win32":
    raise ImportError("The embedded servers have no Windows build: set DATABASE_URL and REDIS_URL.")
