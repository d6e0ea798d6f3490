"""The embedded stack: which parts it has, in what order they start, and what each is told through its environment.

    postgres ─┐
    valkey   ─┴─ migrate ── api, worker, beat          stopped: api and worker, beat, model, valkey, postgres
    model    ──────────────────────────────── ready

DATABASE_URL, REDIS_URL and UPSTREAM_BASE_URL replace a part by one that the operator runs; nothing else differs.
"""

import asyncio
import http.client
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.embedded.given import probe_broker
from orchestrator.embedded.home import Home, State
from orchestrator.embedded.pgvector import probe_pgvector
from orchestrator.embedded.postgres import Postgres
from orchestrator.embedded.process import Process, free_port
from orchestrator.embedded.supervisor import Narrator, Part, Supervisor
from orchestrator.embedded.valkey import Valkey
from orchestrator.embedded.warden import bury_the_rest

PACKAGES = Path(__file__).parents[2]
HOST = "127.0.0.1"
PATIENCE_WITH_BROKER = {
    "socket_timeout": 2.0,
    "socket_connect_timeout": 2.0,
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0,
}
# Clients use these to find us; our own processes must not be led astray by them.
CLIENTS_OWN = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "PYTHONHOME")


@dataclass(frozen=True)
class Plan:
    """What to start. Addresses that are given replace the embedded part; `model` names the embedded model, if any."""

    home: Home
    port: int
    database_url: str | None = None
    redis_url: str | None = None
    upstream_base_url: str | None = None
    model: str | None = None


class Stack:
    """One stack, from start to stop, run by the main thread of a process that holds the home's lock."""

    def __init__(self, plan: Plan, narrator: Narrator) -> None:
        self.plan = plan
        self.home = plan.home
        self.supervisor = Supervisor(narrator, self._record)
        self.state = State(
            pid=os.getpid(),
            base_url=f"http://{HOST}:{plan.port}/v1",
            api_key=self.home.api_key(),
            database_url=plan.database_url or "",
            redis_url=plan.redis_url or "",
            upstream_base_url=plan.upstream_base_url or "",
        )

    def run(self, on_ready: Callable[[State], None]) -> None:
        """Start everything, serve until a signal asks for the end, stop everything.

        Raises EmbeddedError when a part cannot be started or does not stay up, StopRequested when it was stopped while
        it started; nothing runs any more then either.
        """
        with self.supervisor.signals():
            try:
                self._record()
                self._start()
                self.state = replace(self.state, phase="ready")
                self._record()
                on_ready(self.state)
                self.supervisor.watch()
            finally:
                self.supervisor.stop()
                bury_the_rest()
                self.home.forget()

    def _start(self) -> None:
        if self.plan.redis_url:
            probe_broker(self.plan.redis_url)
        model = self._model() if self.plan.model and not self.plan.upstream_base_url else None
        if model:
            self.supervisor.launch(model)
        stores = [*self._postgres(), *self._valkey()]
        self.supervisor.await_ready(*stores)
        asyncio.run(probe_pgvector(self.state.database_url))
        self.supervisor.run_once(
            self._python("migrate", "migrate", extra={"ASSISTANTD_API_KEY": self.state.api_key}), 120
        )
        api = Part("api", self._api, stop_within=8)
        worker = Part("worker", self._worker, stop_within=15)
        beat = Part("beat", self._beat, stop_within=5, stop_stage=1)
        self.supervisor.launch(api)
        self.supervisor.launch(worker)
        self.supervisor.await_ready(api, *([model] if model else []))
        self.supervisor.await_ready(worker)  # asking it costs an import: not while the others need the CPU
        self.supervisor.launch(beat)
        self.supervisor.await_ready(beat)

    def _postgres(self) -> list[Part]:
        if self.plan.database_url:
            return []
        server = Postgres(self.home.root / "postgres", log=self.home.logs / "postgres.log")
        part = Part("postgres", server.spawn, stop_within=30, stop_stage=4)
        self.supervisor.launch(part)
        self.state = replace(self.state, database_url=server.url)
        return [part]

    def _valkey(self) -> list[Part]:
        if self.plan.redis_url:
            return []
        server = Valkey(self.home.root / "valkey", log=self.home.logs / "valkey.log")
        part = Part("valkey", server.spawn, stop_stage=3)
        self.supervisor.launch(part)
        self.state = replace(self.state, redis_url=server.url)
        return [part]

    def _model(self) -> Part:
        port = free_port()
        self.state = replace(self.state, upstream_base_url=f"http://{HOST}:{port}/v1")

        def spawn() -> Process:
            process = self._python("model", "model", "serve", "--port", str(port), "--model", str(self.plan.model))
            process.probe = lambda: answers(port, "/v1/models")
            process.spawn()
            return process

        return Part("model", spawn, ready_within=180, stop_within=2, stop_stage=2)  # it has nothing to lose

    def _api(self) -> Process:
        process = self._python("api", "api")
        process.probe = lambda: answers(self.plan.port, "/readyz")
        process.spawn()
        return process

    def _worker(self) -> Process:
        process = self._python("worker", "worker")
        process.probe = lambda: bool(ping_workers(self.state.redis_url, only=worker_name(process.pid or 0)))
        process.spawn()
        return process

    def _beat(self) -> Process:
        process = self._python("beat", "beat")
        process.spawn()
        return process

    def _python(self, name: str, *command: str, extra: dict[str, str] | None = None) -> Process:
        """One of our own commands, told through its environment where everything is."""
        told = {
            "DATABASE_URL": self.state.database_url,
            "REDIS_URL": self.state.redis_url,
            "UPSTREAM_BASE_URL": self.state.upstream_base_url,
            "ASSISTANTD_STORAGE_URL": os.environ.get("ASSISTANTD_STORAGE_URL") or self.home.files.as_uri(),
            "ASSISTANTD_API_HOST": HOST,
            "ASSISTANTD_API_PORT": str(self.plan.port),
            "PYTHONPATH": str(PACKAGES),
            **(extra or {}),
        }
        inherited = {key: value for key, value in os.environ.items() if key not in CLIENTS_OWN}
        inherited.setdefault("ASSISTANTD_LOG_FORMAT", "json")
        inherited.setdefault("ASSISTANTD_SHUTDOWN_GRACE", "3")  # whoever presses Ctrl-C waits for it
        return Process(
            name,
            # -P: the current folder is no place to import from.
            [sys.executable, "-P", "-m", "orchestrator.cli", *command],
            self.home.logs / f"{name}.log",
            env=inherited | {key: value for key, value in told.items() if value},
            cwd=self.home.logs,
            die_signal=signal.SIGKILL,
        )

    def _record(self) -> None:
        pids = {part.name: part.process.pid for part in self.supervisor.parts if part.process and part.process.pid}
        self.state = replace(self.state, processes=pids)
        self.home.record(self.state)


def answers(port: int, path: str, timeout: float = 1.0) -> bool:
    """Whether a server of ours on this port answers 200."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def worker_name(pid: int) -> str:
    """What the worker with this process id on this host calls itself: unique, since several may run on one host."""
    return f"worker-{pid}@{socket.gethostname()}"


def ping_workers(redis_url: str, timeout: float = 1.0, only: str | None = None) -> list[str]:
    """The names of all Celery workers, or of `only` this one, that answer within `timeout`."""
    # Here, since they take long to import and most commands do without.
    from celery import Celery
    from kombu.exceptions import KombuError
    from redis import RedisError

    app = Celery(broker=redis_url, set_as_current=False)
    app.conf.update(broker_transport_options=PATIENCE_WITH_BROKER)
    try:
        with app, app.connection_for_write() as connection:
            replies = app.control.ping([only] if only else None, timeout, connection=connection)
    except (OSError, KombuError, RedisError):
        return []
    return [name for reply in replies or [] for name in reply]
