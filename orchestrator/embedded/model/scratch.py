"""A private folder for as long as a process lives, and the end of those whose processes were killed.

Each folder holds a lock that its process keeps; who can take it knows that the process is gone.
"""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "assistantd-model-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder that only this user can enter; it is deleted afterwards."""
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    draft = folder / "lock.draft"
    with draft.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        draft.rename(folder / "lock")  # only now can others see it: they must not take it before we do
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Delete the folders that nobody keeps any more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            with (folder / "lock").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # it is in use, or somebody else's
