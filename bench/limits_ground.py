"""What the benchmarks of one process stand on: the whole stack, and processes that are told, heard and metered."""

import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from bench import stack as stacks
from bench.report import ROOT, Options
from bench.stack import Stack

PATIENCE = 120.0
"""Seconds that anything may take to start, or to answer."""
MANY = str(10**6)
TWIN = "CREATE DATABASE limit_ TEMPLATE assistantd"


def cpu_of(pid: int | None) -> float:
    """CPU seconds of all threads of a process so far, to the nanosecond."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


class Child:
    """A process of a benchmark. What it costs is read from the kernel, so it need not measure itself."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        """Its id."""
        return self.process.pid

    def cpu(self) -> float:
        """CPU seconds of all its threads so far."""
        return cpu_of(self.pid)

    def memory(self, *, peak: bool = False) -> float:
        """Megabytes that it holds, or has held at most."""
        name = "VmHWM:" if peak else "VmRSS:"
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024

    def tell(self, line: bytes) -> None:
        """Write a line to its standard input."""
        if self.process.stdin is None:
            raise RuntimeError("The process has no standard input.")
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def hear(self, patience: float = PATIENCE) -> str:
        """The next line of its standard output. Raises RuntimeError if there is none in time."""
        if self.process.stdout is None:
            raise RuntimeError("The process has no standard output.")
        ready, _, _ = select.select([self.process.stdout], [], [], patience)
        line = self.process.stdout.readline().decode().strip() if ready else ""
        if not line:
            raise RuntimeError(f"Process {self.pid} said nothing:\n{self.log.read_text()[-3000:]}")
        return line

    def stop(self) -> None:
        """End it in order, or kill it."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)


@dataclass
class Ground:
    """What runs, and how more is started: from the measured tree, or from this one. `twin` is the address of a database
    with the same schema on the same server, whose runs no worker would take away.
    """

    stack: Stack
    twin: str
    children: list[Child] = field(default_factory=list)

    @property
    def database(self) -> str:
        """The address of Postgres."""
        return self.stack.database_url

    @property
    def redis(self) -> str:
        """The address of Valkey."""
        return self.stack.environment["REDIS_URL"]

    @property
    def model(self) -> str:
        """The address of the scripted model."""
        return self.stack.model_url

    def bench(self, module: str, *arguments: str) -> Child:
        """Start a module of ours, which is told and heard by lines."""
        return self._start([sys.executable, "-m", module, *arguments], ROOT, talks=True)

    def worker(self, *, through: str | None = None, ready: str = "worker_ready", **environment: str) -> Child:
        """Start a worker of the measured tree, or the file `through` in its place, and wait until it is
        `ready`, as its log says."""
        command = [sys.executable, "-P", through] if through else [sys.executable, "-m", "orchestrator.cli", "worker"]
        child = self._start(command, self.stack.options.tree, environment)
        self._wait_for(child, ready)
        return child

    def _start(
        self, command: list[str], folder: Path, environment: dict[str, str] | None = None, *, talks: bool = False
    ) -> Child:
        pipe = subprocess.PIPE if talks else subprocess.DEVNULL
        path = self.stack.folder / f"child-{len(self.children)}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**self.stack.environment, "PYTHONPATH": str(folder), **(environment or {})},
                stdin=pipe,
                stdout=pipe if talks else log,
                stderr=log,
            )
        child = Child(process, path)
        self.children.append(child)
        self.stack.ends.callback(child.stop)
        return child

    def _wait_for(self, child: Child, text: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while text not in (said := child.log.read_text()):
            if child.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Process {child.pid} did not say {text!r}:\n{said[-3000:]}")
            time.sleep(0.05)


@contextmanager
def running(
    options: Options, *, statements: bool = False, environment: dict[str, str] | None = None
) -> Iterator[Ground]:
    """Postgres, Valkey and the model: the runs of a benchmark need no place that another run would have to leave."""
    options = replace(
        options, environment={"ASSISTANTD_PROJECT_RUNS": MANY, **(environment or {}), **options.environment}
    )
    with stacks.running(options, workers=0, api=False, statements=statements) as stack:
        stack.fetch(TWIN)
        yield Ground(stack, urlsplit(stack.database_url)._replace(path="/limit_").geturl())
