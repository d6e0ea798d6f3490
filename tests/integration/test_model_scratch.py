"""The folder of the model's socket goes with its process, however the process ends."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from orchestrator.embedded.model.scratch import scratch_folder

ROOT = Path(__file__).parents[2]
KILLED = """
import os, signal
from orchestrator.embedded.model.scratch import scratch_folder
with scratch_folder():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_folder_in_use_stays_and_that_of_a_killed_process_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    subprocess.run([sys.executable, "-c", KILLED], cwd=ROOT, env={"TMPDIR": str(tmp_path)}, check=False, timeout=30)
    left = list(tmp_path.iterdir())

    with scratch_folder() as first, scratch_folder() as second:
        found = set(tmp_path.iterdir())

    assert len(left) == 1
    assert found == {first, second}
    assert list(tmp_path.iterdir()) == []
