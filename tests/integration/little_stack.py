"""A stack of Postgres, Valkey and stubs, supervised as `up` does it; test_supervision.py starts it.

    python little_stack.py <folder> <program of the stub `worker`> <argument>...

Prints one line for each thing that the narrator is told. With MARKS, a folder, in the environment the worker is ready
once there is a file `ready` of its pid, and is told by a file `seen`.
"""

import os
import sys
from pathlib import Path

from orchestrator.embedded.home import Home, State
from orchestrator.embedded.postgres import Postgres
from orchestrator.embedded.process import EmbeddedError, Process
from orchestrator.embedded.supervisor import Part, StopRequested, Supervisor
from orchestrator.embedded.valkey import Valkey
from orchestrator.embedded.warden import bury_the_rest, part_from_warden


class Lines:
    """A narrator for a test that reads lines."""

    def starting(self, name: str) -> None:
        self._say("starting", name)

    def ready(self, name: str, seconds: float) -> None:
        self._say("ready", name)

    def trouble(self, text: str, tail: str = "") -> None:
        self._say("trouble", text, "|", tail)

    def stopping(self, *names: str) -> None:
        self._say("stopping", *names)

    def _say(self, *words: str) -> None:
        sys.stdout.write(" ".join(words) + "\n")
        sys.stdout.flush()


def run(home: Home, argv: list[str]) -> int:
    """Serve until a signal comes."""
    supervisor = Supervisor(Lines())
    worker = Process("worker", argv, home.logs / "worker.log")

    if marks := os.environ.get("MARKS"):
        worker.probe = lambda: _marked(Path(marks), worker.pid)

    def spawn() -> Process:
        worker.spawn()
        return worker

    postgres, valkey = Postgres(home.root / "postgres", durable=False), Valkey(home.root / "valkey")
    parts = [
        Part("postgres", postgres.spawn, stop_stage=2),
        Part("valkey", valkey.spawn, stop_stage=1),
        Part("worker", spawn, stop_within=1, first_pause=0.02),
    ]
    with supervisor.signals():
        try:
            for part in parts:
                supervisor.launch(part)
            supervisor.await_ready(*parts[: 3 if marks else 2])  # the worker may crash: that is watched
            pids = {part.name: part.process.pid or 0 for part in parts if part.process}
            home.record(State(os.getpid(), "http://127.0.0.1:1/v1", "sk-asst-test", "ready", processes=pids))
            sys.stdout.write("serving\n")
            sys.stdout.flush()
            supervisor.watch()
        except StopRequested:
            return 3
        except EmbeddedError as error:
            sys.stdout.write(f"gave up {error}\n")
            return 1
        finally:
            supervisor.stop()
            bury_the_rest()
            home.forget()
    return 0


def _marked(marks: Path, pid: int | None) -> bool:
    ready = (marks / f"{pid}.ready").exists()
    if ready:
        (marks / f"{pid}.seen").touch()
    return ready


def main() -> None:
    """Lock the folder, part from the warden, run."""
    home = Home(Path(sys.argv[1]))
    home.create()
    home.acquire(wait=1)
    code = part_from_warden()
    sys.exit(run(home, sys.argv[2:]) if code is None else code)


if __name__ == "__main__":
    main()
