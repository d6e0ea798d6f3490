"""A place for one process of ours: whoever dies in it is replaced, and each of its lives has a log of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from orchestrator.embedded.process import free_port, launcher
from tests.fakes.proxy import Proxy

ROOT = Path(__file__).parents[2]
LINKS = {"postgres": "DATABASE_URL", "valkey": "REDIS_URL", "model": "UPSTREAM_BASE_URL"}
"""What a process reaches through a proxy of its own, and the variable that says where it is."""
Kind = Literal["api", "worker"]
Loss = Literal["kill", "freeze", "term"]


@dataclass
class Life:
    """One process in a slot. `losses`: what was done to it, and when; `thaws`: when it was let go on after a freeze."""

    slot: str
    number: int
    log: Path
    began: float = field(default_factory=time.time)
    losses: list[tuple[float, Loss]] = field(default_factory=list)
    thaws: list[float] = field(default_factory=list)

    def lines(self) -> Iterator[dict[str, Any]]:
        """What it has logged so far, with `at` in unix seconds."""
        for line in self.log.read_text(errors="replace").splitlines():
            try:
                said = json.loads(line)
                said["at"] = datetime.fromisoformat(said["timestamp"]).timestamp()
            except (ValueError, KeyError, TypeError):  # a traceback of somebody else's, or a line that a kill cut off
                continue
            yield said

    def has_said(self, event: str) -> bool:
        """Whether this event is in its log."""
        return any(line["event"] == event for line in self.lines())


class Slot:
    """A process `assistantd api` or `assistantd worker` that can be lost in every way. Start it from the main thread:
    it ends with the thread that started it.
    """

    def __init__(self, name: str, kind: Kind, environment: Mapping[str, str], folder: Path, *, proxied: bool) -> None:
        self.name = name
        self.kind = kind
        self.wanted = False
        self.lives: list[Life] = []
        self.proxies: dict[str, Proxy] = {}
        self._folder = folder
        self._ends = ExitStack()
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        if kind == "api":
            self.port = free_port()
            self._environment["ASSISTANTD_API_PORT"] = str(self.port)
        for link, variable in LINKS.items() if proxied else ():
            proxy = self._ends.enter_context(Proxy.before(environment[variable]))
            self.proxies[link], self._environment[variable] = proxy, proxy.url

    @property
    def base_url(self) -> str:
        """Where it serves."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def life(self) -> Life:
        """The present one, or the last."""
        return self.lives[-1]

    @property
    def alive(self) -> bool:
        """Whether there is a process now."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The process id of the present life, or the last."""
        return None if self._process is None else self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How the last life ended."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Begin a life; the one before it is over, or about to be."""
        if self._process is not None:
            self._process.wait(30)
        number = len(self.lives)
        log = self._folder / f"{self.name}.{number}.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                launcher([sys.executable, "-m", "orchestrator.cli", self.kind], die=int(signal.SIGKILL)),
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.wanted = True
        self.lives.append(Life(self.name, number, log))

    def lose(self, how: Loss) -> float:
        """Kill it, freeze it, or ask it to end; returns when."""
        signals = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP, "term": signal.SIGTERM}
        at = time.time()
        self.life.losses.append((at, how))
        self._send(signals[how])
        return at

    def thaw(self) -> None:
        """Let a frozen process go on."""
        self.life.thaws.append(time.time())
        self._send(signal.SIGCONT)

    def close(self) -> None:
        """End it for good."""
        self.wanted = False
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
        self._ends.close()

    def _send(self, signum: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, signum)
