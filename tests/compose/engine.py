"""A deployment on a real engine, as its operator would run it: through `docker compose`, in a folder of its own.

The folder holds what a clean clone does and nothing else, so that the .env of whoever runs the tests stays out. Users
of containers may read what they are given of it, whatever the umask of whoever cloned.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.embedded.process import free_port

ROOT = Path(__file__).parents[2]
IMAGE = "assistantd-under-test"
BUILD = ("docker", "build", "--quiet", "--network", "host")
HOST_NETWORK = Path(__file__).parent / "build.yaml"
KILLED = 128 + signal.SIGKILL
SCRIPTED = "http://scripted:9000/v1"
DEADLINE = 120.0
POLL = 0.2

Json = Any


def command(*arguments: str, timeout: float = 600, **how: Json) -> str:
    """What a command prints. Raises AssertionError, with all that it said, if it fails."""
    done: Json = subprocess.run(arguments, capture_output=True, timeout=timeout, check=False, **how)
    said = done.stderr.decode(errors="replace")[-6000:]
    assert done.returncode == 0, f"{' '.join(arguments)} ended with {done.returncode}:\n{said}"
    return str(done.stdout.decode(errors="replace"))


def build(target: str, tag: str, *options: str, folder: Path = ROOT) -> str:
    """Build an image; returns its name."""
    targeted = ("--target", target) if target else ()
    environment = os.environ | {"DOCKER_BUILDKIT": "1"}
    command(*BUILD, *targeted, "--tag", tag, *options, str(folder), env=environment, timeout=1800)
    return tag


def compose_build(profile: str = "") -> None:
    """Make the images of this work tree as docs/deploy.md says, of a profile or of none: `docker compose build`.

    Where Compose has no buildx to leave it to, the engine may be one whose own networks have no way out.
    """
    asked = ["docker", "buildx", "version"]
    plain = subprocess.run(asked, capture_output=True, timeout=60, check=False).returncode == 0
    files = [ROOT / "compose.yaml"] if plain else [ROOT / "compose.yaml", HOST_NETWORK]
    chosen = {"COMPOSE_FILE": os.pathsep.join(map(str, files)), "COMPOSE_PROFILES": profile}
    environment = _without_settings() | chosen | {"ASSISTANTD_IMAGE": IMAGE, "ASSISTANTD_VERSION": "latest"}
    command("docker", "compose", "--env-file", os.devnull, "build", env=environment, cwd=ROOT, timeout=1800)


def until(condition: Callable[[], Json], what: str, deadline: float = DEADLINE) -> Json:
    """The first answer that is true."""
    end = time.monotonic() + deadline
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {deadline:g} seconds: {what}"
        time.sleep(POLL)
    return found


def readable(path: Path) -> None:
    """Let everybody read it and all that is in it."""
    for each in (path, *path.rglob("*")):
        each.chmod(0o755 if each.is_dir() else 0o644)


def _without_settings() -> dict[str, str]:
    mine = ("ASSISTANTD_", "UPSTREAM_", "COMPOSE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(mine)}


class Deployment:
    """One project of compose, not started yet. `files` are added to compose.yaml and the tests' own."""

    def __init__(self, folder: Path, *files: Path, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder / "clone"
        self.folder.mkdir()
        for name in ("compose.yaml", ".env.example", "deploy"):
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, self.folder / name)
        shutil.copytree(ROOT / "tests" / "fakes", folder / "tests" / "fakes", ignore=shutil.ignore_patterns("*.pyc"))
        for each in (self.folder, folder / "tests"):
            readable(each)
        self.port = free_port()
        self.project = f"test-{self.port}"
        self.files = (self.folder / "compose.yaml", Path(__file__).parent / "engine.yaml", *files)
        self.settings = {
            "ASSISTANTD_IMAGE": IMAGE,
            "API_PORT": str(self.port),
            "UPSTREAM_BASE_URL": SCRIPTED,
            "TESTS": str(folder / "tests"),
            **(settings or {}),
        }
        self.profiles: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """Where the API is published."""
        return f"http://127.0.0.1:{self.port}"

    def dotenv(self, text: str) -> None:
        """Write .env, which the containers' user has to be able to read."""
        path = self.folder / ".env"
        path.write_text(text)
        path.chmod(0o644)

    def compose(self, *arguments: str, timeout: float = 300, **how: Json) -> str:
        """What `docker compose` prints."""
        return self.shell(f"docker compose {shlex.join(arguments)}", timeout=timeout, **how)

    def shell(self, line: str, timeout: float = 600, **how: Json) -> str:
        """What a line prints that an operator might type in the folder."""
        ours = {
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_FILE": os.pathsep.join(map(str, self.files)),
            "COMPOSE_PROFILES": ",".join(self.profiles),
            "COMPOSE_PROGRESS": "quiet",
        }
        return command(
            "sh", "-euc", line, env=_without_settings() | self.settings | ours, cwd=self.folder, timeout=timeout, **how
        )

    def up(self, *arguments: str) -> float:
        """Start everything and wait until it is healthy; the seconds that took."""
        began = time.monotonic()
        try:
            self.compose(
                "up", "--detach", "--wait", "--wait-timeout", "180", "--no-build", "--pull", "never", *arguments
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None
        return time.monotonic() - began

    def scale(self, service: str, count: int) -> None:
        """Have so many containers of a service; those that are there and stay are left alone."""
        self.up("--no-deps", "--no-recreate", "--scale", f"{service}={count}", service)

    def down(self, *arguments: str) -> None:
        """Stop everything and remove it."""
        self.compose("down", "--timeout", "20", "--remove-orphans", *arguments)

    def logs(self) -> str:
        """What all have said last."""
        return self.compose("logs", "--tail", "25", "--no-color")

    def client_environment(self) -> dict[str, str]:
        """Address and key, as an operator gets them."""
        said = self.compose("exec", "-T", "api", "assistantd", "env").removeprefix("export ")
        return dict(part.split("=", 1) for part in said.split())

    def containers(self, service: str = "", *, stopped: bool = False) -> list[Json]:
        """What the engine knows of the containers of a service, or of all."""
        everything = ("--all",) if stopped else ()
        ids = self.compose("ps", "--quiet", *everything, *([service] if service else [])).split()
        return list(json.loads(command("docker", "inspect", *ids))) if ids else []

    def members(self, service: str) -> set[str]:
        """The ids of a service's containers that run."""
        return {each["Id"] for each in self.containers(service)}

    def stop(self, container: str) -> None:
        """Stop one container in order, within its own grace, and remove it."""
        command("docker", "stop", "--time", "60", container)
        command("docker", "rm", container)

    def stop_all(self) -> dict[str, int]:
        """Stop all in order; the exit code of each service."""
        self.compose("stop")
        stopped = self.containers(stopped=True)
        return {each["Config"]["Labels"]["com.docker.compose.service"]: each["State"]["ExitCode"] for each in stopped}

    def kill(self, service: str) -> str:
        """Kill the first process of a service, as the kernel would: the engine takes `docker kill` for our wish."""
        found = self.containers(service)[0]
        os.kill(found["State"]["Pid"], signal.SIGKILL)
        return str(found["Id"])

    def recovered(self, service: str, killed: str) -> None:
        """Wait until a service that was killed has been started again and says that it is healthy."""

        def back() -> bool:
            (state,) = [each for each in self.containers(service, stopped=True) if each["Id"] == killed]
            return bool(state["RestartCount"] and state["State"].get("Health", {}).get("Status") == "healthy")

        until(back, f"{service} is back and healthy")

    def sql(self, statement: str) -> str:
        """What the database answers."""
        asked = ("psql", "--username=assistantd", "--no-align", "--tuples-only", "--command", statement, "assistantd")
        return self.compose("exec", "-T", "postgres", *asked).strip()
