"""A Postgres cluster that was created once and is copied: initdb for each test would take longer than the tests."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from orchestrator.embedded.postgres import Postgres


@cache
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="assistantd-test-cluster-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o711)
    server = Postgres(folder / "postgres", durable=False)
    server.start()
    server.stop()
    return folder / "postgres"


def postgres_on(folder: Path) -> Path:
    """A data folder for Postgres inside `folder`, ready to be started on."""
    target = folder / "postgres"
    shutil.copytree(_template(), target)
    target.chmod(0o700)
    return target
