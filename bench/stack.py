"""The whole of assistantd for benches: Postgres and Valkey as in production, a scripted model, API and workers.

Everything is a process of its own that ends with us, and logs at `info` into a file, as where it is deployed. `Stack`
starts them, makes what clients need, and says what each group of processes used: `meter` gives seconds of CPU, user
and system, of group after group, those of children that have ended included.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import asyncpg
import orjson
import psutil

from bench.report import ROOT, Options
from bench.scripts import FUNCTION
from orchestrator.embedded.postgres import Postgres
from orchestrator.embedded.process import Process, free_port
from orchestrator.embedded.valkey import Valkey

KEY: Final = "sk-asst-bench-0123456789abcdef"
GROUPS: Final = ("api", "worker", "redis", "postgres", "model")
START_TIMEOUT: Final = 60.0
MOVING: Final = "select count(*) from runs where status in ('queued', 'in_progress')"
Probe = Callable[[], bool]
_SCHEMA = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
_TOOL = {"type": "function", "function": {"name": FUNCTION, "description": "Look a place up.", "parameters": _SCHEMA}}
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class Stack:
    """What runs. Use `running`."""

    options: Options
    folder: Path
    ends: ExitStack
    environment: dict[str, str] = field(default_factory=dict)
    database_url: str = ""
    model_url: str = ""
    base_url: str = ""
    groups: dict[str, list[Process]] = field(default_factory=lambda: {name: [] for name in GROUPS})

    def start_api(self, **environment: str) -> str:
        """Start an API process and return its base URL once it is ready; `base_url` is that of the last."""
        port = free_port()
        address = f"http://127.0.0.1:{port}"
        environment = {"ASSISTANTD_API_PORT": str(port), **environment}
        self._start("api", "api", environment, lambda: _answers(f"{address}/readyz"))
        self.base_url = f"{address}/v1"
        return self.base_url

    def start_worker(self, **environment: str) -> None:
        """Start a worker process and return once it takes runs, which it tells its log."""
        log = self.folder / f"worker-{len(self.groups['worker'])}.log"
        self._start("worker", "worker", environment, partial(_says, log, b" ready."))

    def assistant(self, model: str = "bench-ideal", *, tools: bool = False) -> str:
        """A new assistant's id."""
        body = {"model": model, "instructions": "You are a guide.", "tools": [_TOOL] if tools else []}
        return str(self.ask("POST", "/assistants", body)["id"])

    def ask(self, method: str, path: str, body: object = None) -> dict[str, object]:
        """One request to the API, for what is made before a measurement. Raises OSError."""
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        data = None if body is None else orjson.dumps(body)
        request = urllib.request.Request(self.base_url + path, data, headers, method=method)  # noqa: S310  # our own
        with _NO_PROXY.open(request, timeout=60) as response:
            found: dict[str, object] = orjson.loads(response.read())
            return found

    def fetch(self, statement: str, *args: object) -> list[list[object]]:
        """Rows of the database, on a connection of its own."""
        return asyncio.run(_fetch(self.database_url, statement, args))

    def settle(self, moving: int = 0, timeout: float = 60.0) -> None:
        """Return when at most so many runs are under way. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while int(str(self.fetch(MOVING)[0][0])) > moving:
            if time.monotonic() > deadline:
                raise TimeoutError("The stack does not catch up with its runs.")
            time.sleep(0.2)

    @contextmanager
    def meter(self) -> Iterator[dict[str, float]]:
        """Seconds of CPU of each group while the block runs; they are there when it is left."""
        used: dict[str, float] = {}
        before = {name: self._cpu(name) for name in GROUPS}
        yield used
        used.update({name: self._cpu(name) - before[name] for name in GROUPS})

    def memory(self, group: str) -> float:
        """Megabytes that a group's processes hold, each with what it shares."""
        return float(sum(one.memory_info().rss for one in self._tree(group))) / 2**20

    def _cpu(self, group: str) -> float:
        """To the nanosecond for what lives; what their children had used that have ended is known in ticks."""
        used = 0.0
        for process in self._tree(group):
            with suppress(psutil.NoSuchProcess, OSError):
                used += time.clock_gettime(_clock_of(process.pid)) + sum(process.cpu_times()[2:4])
        return used

    def _tree(self, group: str) -> list[psutil.Process]:
        roots = [psutil.Process(process.pid) for process in self.groups[group]]
        return [*roots, *(child for root in roots for child in root.children(recursive=True))]

    def _start(self, group: str, command: str, environment: dict[str, str], probe: Probe) -> None:
        number = len(self.groups[group])
        process = Process(
            f"{group}-{number}",
            [sys.executable, "-m", "orchestrator.cli", command],
            self.folder / f"{group}-{number}.log",
            env={**self.environment, **environment},
            cwd=self.options.tree,
            probe=probe,
        )
        self._run(group, process)

    def _run(self, group: str, process: Process) -> None:
        process.spawn()
        self.ends.callback(process.stop, 30.0)
        process.wait_ready(START_TIMEOUT)
        self.groups[group].append(process)


@contextmanager
def running(
    options: Options, *, workers: int = 1, api: bool = True, statements: bool = False, models: int = 1
) -> Iterator[Stack]:
    """The whole stack. With `statements`, Postgres counts them in `pg_stat_statements`, which costs it a little."""
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="assistantd-bench-")))
        stack = Stack(options, folder, ends)
        _start_postgres(stack, statements=statements)
        valkey = Valkey(folder / "valkey")
        ends.callback(valkey.stop)
        redis_url = valkey.start()
        stack.groups["redis"].append(_started(valkey.process))
        _start_models(stack, models)
        stack.environment = _environment(stack, redis_url)
        command = [sys.executable, "-m", "orchestrator.cli", "migrate"]
        subprocess.run(command, cwd=options.tree, env=stack.environment, check=True, capture_output=True, timeout=120)
        for _ in range(workers):
            stack.start_worker()
        if api:
            stack.start_api()
        yield stack


def _start_postgres(stack: Stack, *, statements: bool) -> None:
    postgres = Postgres(stack.folder / "postgres")
    stack.ends.callback(postgres.stop)
    stack.database_url = postgres.start()
    commit = "on" if stack.options.synchronous_commit else "off"
    stack.fetch(f"alter system set synchronous_commit = {commit}")
    if statements:
        stack.fetch("alter system set shared_preload_libraries = 'pg_stat_statements'")
    postgres.stop()
    postgres.start()
    if statements:
        stack.fetch("create extension pg_stat_statements")
    stack.groups["postgres"].append(_started(postgres.process))


def _start_models(stack: Stack, processes: int) -> None:
    """Several processes on one port: the kernel spreads the connections."""
    port = free_port()
    stack.model_url = f"http://127.0.0.1:{port}/v1"
    for number in range(processes):
        command = [sys.executable, "-m", "bench.model_server", "--port", str(port)]
        log = stack.folder / f"model-{number}.log"
        process = Process(f"model-{number}", command, log, cwd=ROOT, probe=partial(_says, log, b"http"))
        stack._run("model", process)


def _says(log: Path, what: bytes) -> bool:
    return what in log.read_bytes()


def _environment(stack: Stack, redis_url: str) -> dict[str, str]:
    own = ("OPENAI_", "ASSISTANTD_", "PYTHON", "UPSTREAM_", "DATABASE_", "REDIS_")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(own)},
        "DATABASE_URL": stack.database_url,
        "REDIS_URL": redis_url,
        "UPSTREAM_BASE_URL": stack.model_url,
        "UPSTREAM_API_KEY": "sk-upstream",
        "ASSISTANTD_API_KEY": KEY,
        "ASSISTANTD_LOG_FORMAT": "json",
        "ASSISTANTD_STORAGE_URL": (stack.folder / "files").as_uri(),
        **stack.options.environment,
    }


def _clock_of(pid: int) -> int:
    """The clock of a process' CPU time, by its number as Linux makes it: what clock_getcpuclockid() returns."""
    return ~pid << 3 | 2


def _started(process: Process | None) -> Process:
    if process is None:
        raise RuntimeError("It was not started.")
    return process


def _answers(url: str) -> bool:
    try:
        with _NO_PROXY.open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


async def _fetch(url: str, statement: str, args: tuple[object, ...]) -> list[list[object]]:
    connection = await asyncpg.connect(url)
    try:
        return [list(row) for row in await connection.fetch(statement, *args)]
    finally:
        await connection.close()
