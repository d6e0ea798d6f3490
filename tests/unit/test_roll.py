"""deploy/roll.sh with an engine that only pretends: whose containers go, and when."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.unit.deployment import ROOT

ENGINE = r"""#!/bin/sh
# Keeps its containers in a file, one a line. $SAID says how healthy new ones are; $UP, what `compose up` leaves with;
# $OTHERS are there instead of all of them when it is asked how healthy the new ones are.
echo "$*" >> calls
case "$*" in
    "compose ps --quiet worker") grep -v stopped containers || true ;;
    "compose up"*) printf 'new-1\nnew-2\n' >> containers; exit "$UP" ;;
    "ps --all "*) cat containers ;;
    "ps "*) grep -v stopped containers || true ;;
    *compose.project*) echo team ;;
    "inspect "*)
        shift 3
        [ -z "$OTHERS" ] || { printf '%s\n' $OTHERS > containers; exit 1; }
        for container in "$@"; do case $container in old*) echo unhealthy ;; *) echo "$SAID" ;; esac; done
        ;;
    "rm "*) grep -vx "$2" containers > left; mv left containers ;;
    "logs "*) echo "it said why" ;;
esac
"""
OLD = ["old-1", "old-2"]
NEW = ["new-1", "new-2"]
LOCK = "roll-team-worker.lock"
SENT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What interrupts a roll."""


def start(folder: Path, **known: str) -> subprocess.Popen[str]:
    """Begin to roll the workers."""
    engine = folder / "docker"
    engine.write_text(ENGINE)
    engine.chmod(0o755)
    usual = {"SAID": "healthy", "UP": "0", "OTHERS": "", "ROLL_WITHIN": "1", "TMPDIR": str(folder)}
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", **usual, **known}
    command = ["sh", str(ROOT / "deploy" / "roll.sh"), "worker"]
    # Tests in the background of a shell, or under nohup, ignore what would end them; a shell could not heed it then.
    before = {number: signal.signal(number, signal.default_int_handler) for number in SENT}
    try:
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def finish(rolling: subprocess.Popen[str], folder: Path) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """What it came to, and the containers that are left."""
    try:
        out, err = rolling.communicate(timeout=120)
    finally:
        rolling.kill()
    done = subprocess.CompletedProcess(rolling.args, rolling.returncode, out, err)
    return done, (folder / "containers").read_text().split()


def roll(folder: Path, said: str = "healthy", up: int = 0) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Roll the workers; what that came to, and the containers that are left."""
    return finish(start(folder, SAID=said, UP=str(up)), folder)


def calls(folder: Path, *commands: str) -> list[str]:
    """What the engine was asked for, of these commands."""
    said = (folder / "calls").read_text() if (folder / "calls").exists() else ""
    return [line for line in said.splitlines() if line.startswith(commands)]


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
    assert not (folder / LOCK).exists()


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
    assert not (folder / LOCK).exists()


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


def test_where_somebody_else_has_replaced_all_nothing_is_removed(folder: Path) -> None:
    done, left = finish(start(folder, OTHERS="other-1 other-2"), folder)

    assert done.returncode == 1
    assert left == ["other-1", "other-2"]
    assert (
        "New containers of worker are gone, and none of the old ones runs any more: nothing is removed." in done.stderr
    )


def test_what_somebody_else_has_started_meanwhile_stays(folder: Path) -> None:
    _, left = finish(start(folder, OTHERS="old-1 new-2 other-1"), folder)

    assert left == ["old-1", "other-1"]


def test_a_second_roll_of_a_service_is_refused_and_told_what_to_do_if_there_is_no_first(folder: Path) -> None:
    lock = folder / LOCK
    lock.mkdir()
    (lock / "pid").write_text("4711\n")

    done, left = roll(folder)

    assert done.returncode == 1
    assert left == OLD
    assert not calls(folder, "compose up")
    assert "Another roll of worker may be under way (process 4711)." in done.stderr
    assert f"rm -r '{lock}'" in done.stderr
    assert lock.exists()


@pytest.mark.parametrize("sent", SENT)
def test_a_roll_that_is_interrupted_takes_its_own_back(folder: Path, sent: signal.Signals) -> None:
    rolling = start(folder, SAID="starting", ROLL_WITHIN="600")
    deadline = time.monotonic() + 60
    while not calls(folder, "inspect --format {{with") and time.monotonic() < deadline:
        time.sleep(0.05)

    rolling.send_signal(sent)
    done, left = finish(rolling, folder)

    assert done.returncode == 1
    assert left == OLD
    assert "New containers of worker were interrupted: they are removed, and the old ones serve on." in done.stderr
    assert not (folder / LOCK).exists()
