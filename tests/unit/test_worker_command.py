"""What `assistantd worker` becomes: Celery's worker without the rest of Celery's command line."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVICES = {"DATABASE_URL": "postgresql://somebody@127.0.0.1:1/nothing", "REDIS_URL": "redis://127.0.0.1:1/0"}
UNUSED = ("aiohttp", "celery.bin.celery", "prompt_toolkit", "rich", "pygments")


def told(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """What Python says with these arguments."""
    environment = {**os.environ, **SERVICES, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_worker_holds_nothing_in_memory_that_it_never_uses() -> None:
    imports = "import sys, workers.__main__ as main; main.without_painters(); import workers.runs, workers.pool"

    done = told("-c", f"{imports}; main.command('worker'); print([name for name in {UNUSED} if sys.modules.get(name)])")

    assert done.stdout == "[]\n", done.stderr


def test_a_worker_refuses_an_option_that_celery_does_not_know() -> None:
    done = told("-m", "workers", "worker", "--no-such-option")

    assert done.returncode == 2
    assert "No such option" in done.stderr


def test_only_a_worker_and_beat_are_started_so() -> None:
    done = told("-m", "workers", "shell")

    assert done.returncode == 1
    assert "worker or beat" in done.stderr
