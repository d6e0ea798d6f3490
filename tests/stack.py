"""The whole of assistantd for tests: real Postgres and Valkey, a scripted model server, API and worker processes."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.embedded.postgres import Postgres
from orchestrator.embedded.process import free_port
from orchestrator.embedded.valkey import Valkey
from orchestrator.migrate import migrate
from orchestrator.settings import Settings
from tests import wiretap
from tests.fakes.model_control import RemoteModelServer
from tests.integration.clusters import postgres_on

ROOT = Path(__file__).parents[1]
NARROW = 2000
"""The context window, in tokens, of the model "scripted"."""
API_KEY = "sk-asst-tests-0123456789abcdef"
START_TIMEOUT = 60.0


@dataclass
class Stack:
    """What runs, and how to reach it. `environment` starts further processes of the same installation."""

    environment: dict[str, str]
    model: RemoteModelServer
    folder: Path
    ends: ExitStack
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    base_url: str = ""
    tapped: bool = True
    newest_log: Path = Path()

    @property
    def settings(self) -> Settings:
        """The settings that the processes run with."""
        urls = {name: self.environment[name] for name in ("DATABASE_URL", "REDIS_URL")}
        return Settings.model_validate({**urls, "storage_url": self.environment["ASSISTANTD_STORAGE_URL"]})

    def start(self, *command: str, **environment: str) -> "subprocess.Popen[bytes]":
        """Start `assistantd <command>`; it is stopped at the end at the latest. Its output goes to a file."""
        self.newest_log = self.folder / f"{command[0]}-{len(self.processes)}.log"
        log = self.newest_log.open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.cli", *command],
            cwd=ROOT,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        log.close()
        self.processes.append(process)
        return process

    def start_api(self, **environment: str) -> str:
        """Start an API process that serves until the end, and return its base URL once it is ready."""
        return self.ends.enter_context(self.api(**environment))

    @contextmanager
    def api(self, **environment: str) -> Iterator[str]:
        """The base URL of an API process that serves as long as the block lasts: that of a tap, see wiretap.py."""
        port = free_port()
        process = self.start("api", ASSISTANTD_API_PORT=str(port), **environment)
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_TIMEOUT
        while not _ready(f"{address}/readyz"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"The API did not start:\n{self.logs()}")
            time.sleep(0.05)
        try:
            with wiretap.on(f"{address}/v1") if self.tapped else nullcontext(f"{address}/v1") as base_url:
                yield base_url
        finally:
            self.stop(process)

    def start_worker(self, **environment: str) -> "subprocess.Popen[bytes]":
        """Start a worker process; runs wait until it is ready."""
        return self.start("worker", **environment)

    def stop(self, process: "subprocess.Popen[bytes]", signum: int = signal.SIGKILL) -> None:
        """End a process that `start` began and wait until it is gone."""
        process.send_signal(signum)
        process.wait(30)

    def logs(self) -> str:
        """The ends of all processes' logs, for a failure's report."""
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log")))


@contextmanager
def running(folder: Path, *, tapped: bool = True) -> Iterator[Stack]:
    """Database, broker and model server, the schema in place; the caller starts API and workers."""
    with ExitStack() as stack:
        postgres = Postgres(postgres_on(folder), durable=False)
        stack.callback(postgres.stop)
        valkey = Valkey(folder / "valkey", durable=False)
        stack.callback(valkey.stop)
        model = stack.enter_context(RemoteModelServer.start())
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "ASSISTANTD_"))}
        environment = {
            **kept,
            "DATABASE_URL": postgres.start(),
            "REDIS_URL": valkey.start(),
            "UPSTREAM_BASE_URL": model.base_url,
            "UPSTREAM_API_KEY": "sk-upstream",
            "ASSISTANTD_API_KEY": API_KEY,
            "ASSISTANTD_LOG_FORMAT": "json",
            "ASSISTANTD_CONTEXT_WINDOWS": f'{{"scripted": {NARROW}}}',
            "ASSISTANTD_STORAGE_URL": (folder / "files").as_uri(),
        }
        urls = {name: environment[name] for name in ("DATABASE_URL", "REDIS_URL")}
        asyncio.run(migrate(Settings.model_validate({**urls, "api_key": API_KEY})))
        ours = Stack(environment, model, folder, stack, tapped=tapped)
        stack.callback(_kill_all, ours.processes)
        yield ours


def _kill_all(processes: list["subprocess.Popen[bytes]"]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.wait(10)


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310  # our own http
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
