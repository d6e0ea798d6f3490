"""deploy/roll.sh with an engine that only pretends: whose containers go, and when."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.unit.deployment import ROOT

ENGINE = r"""#!/bin/sh
# Keeps its containers in a file, one a line. $SAID says how healthy new ones are; $UP, what `compose up` leaves with.
echo "$*" >> calls
case "$*" in
    "compose ps --quiet worker") grep -v stopped containers || true ;;
    "compose up"*) printf 'new-1\nnew-2\n' >> containers; exit "$UP" ;;
    "ps --all "*) cat containers ;;
    *compose.project*) echo team ;;
    "inspect "*)
        shift 3
        for container in "$@"; do case $container in old*) echo unhealthy ;; *) echo "$SAID" ;; esac; done
        ;;
    "rm "*) grep -vx "$2" containers > left; mv left containers ;;
    "logs "*) echo "it said why" ;;
esac
"""
OLD = ["old-1", "old-2"]
NEW = ["new-1", "new-2"]


def roll(folder: Path, said: str = "healthy", up: int = 0) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Roll the workers; what that came to, and the containers that are left."""
    engine = folder / "docker"
    engine.write_text(ENGINE)
    engine.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "SAID": said, "UP": str(up), "ROLL_WITHIN": "1"}
    command = ["sh", str(ROOT / "deploy" / "roll.sh"), "worker"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    return done, (folder / "containers").read_text().split()


def calls(folder: Path, *commands: str) -> list[str]:
    """What the engine was asked for, of these commands."""
    return [line for line in (folder / "calls").read_text().splitlines() if line.startswith(commands)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An installation of two workers."""
    (tmp_path / "containers").write_text("".join(f"{each}\n" for each in OLD))
    return tmp_path


def test_the_old_are_stopped_in_order_once_the_new_are_healthy(folder: Path) -> None:
    done, left = roll(folder)

    assert done.returncode == 0, done.stderr
    assert left == NEW
    assert calls(folder, "compose up", "stop", "rm") == [
        "compose up --detach --no-deps --no-recreate --no-build --scale worker=4 worker",
        *(f"{command} {each}" for each in OLD for command in ("stop", "rm")),
    ]
    assert "label=com.docker.compose.project=team" in calls(folder, "ps")[0]


@pytest.mark.parametrize(
    ("said", "up", "why"),
    [
        ("unhealthy", 0, "are unhealthy"),
        ("starting", 0, "are not healthy after 1 seconds"),
        ("", 0, "are not healthy after 1 seconds"),  # it is being restarted
        ("starting", 1, "cannot be started"),
    ],
)
def test_new_ones_that_do_not_become_healthy_go_again_and_the_old_stay(
    folder: Path, said: str, up: int, why: str
) -> None:
    done, left = roll(folder, said, up)

    assert done.returncode == 1
    assert left == OLD
    assert f"New containers of worker {why}: they are removed, and the old ones serve on." in done.stderr
    assert "it said why" in done.stderr + done.stdout
    assert calls(folder, "stop") == [f"stop {each}" for each in NEW]


def test_a_container_that_is_stopped_counts_for_the_scale_and_goes_with_the_old(folder: Path) -> None:
    with (folder / "containers").open("a") as containers:
        containers.write("old-stopped\n")

    done, left = roll(folder)

    assert done.returncode == 0, done.stderr
    assert left == NEW
    assert "--scale worker=5 " in calls(folder, "compose up")[0]


def test_a_service_that_does_not_run_is_not_rolled(folder: Path) -> None:
    (folder / "containers").write_text("old-stopped\n")

    done, left = roll(folder)

    assert done.returncode == 1
    assert done.stderr == "No container of worker runs.\n"
    assert left == ["old-stopped"]
