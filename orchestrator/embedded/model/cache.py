"""Where model files lie on this machine, and how a complete one is told from any other without reading it again.

A file is complete when the marker beside it tells its size, modification time and the pinned hash. While it is fetched,
its first bytes lie in `<file>.part`, whichever source they came from: every source continues where the last one
stopped. One process at a time fetches a file; the others wait for it.
"""

import asyncio
import fcntl
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from orchestrator.embedded.model.catalogue import ModelError, ModelFile

LONGEST_WAIT = 3600.0  # for another process that fetches the same file
CHUNK = 4 * 1024 * 1024


@dataclass(frozen=True)
class Step:
    """What is being done, and how many of how many bytes of it are done."""

    text: str
    done: int
    total: int


Progress = Callable[[Step], None]


class SourceError(Exception):
    """A source cannot deliver the file. The text is a short reason; another source may be tried."""


def folder() -> Path:
    """The folder of all models: `ASSISTANTD_MODEL_CACHE`, or one in the user's cache folder."""
    if chosen := os.environ.get("ASSISTANTD_MODEL_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "assistantd" / "models"


class CachedFile:
    """The place of one model's file in the cache."""

    def __init__(self, model: ModelFile, root: Path | None = None) -> None:
        self.model = model
        self.root = root or folder()
        self.path = self.root / model.file
        self.partial = self.root / f"{model.file}.part"
        self._marker = self.root / f"{model.file}.verified"

    def is_complete(self) -> bool:
        """Whether the file is there and was verified as it is now."""
        try:
            found = self.path.stat()
            marker = orjson.loads(self._marker.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return False
        return bool(found.st_size == self.model.size and marker == self._facts(found))

    def accept(self, path: Path, progress: Progress) -> bool:
        """Make `path`, in the cache's folder, the model's file if it has the pinned bytes; else delete it."""
        if path.stat().st_size != self.model.size or sha256(path, self.model.size, progress) != self.model.sha256:
            path.unlink()
            return False
        if path != self.path:
            path.replace(self.path)
        draft = self._marker.with_suffix(".draft")
        draft.write_bytes(orjson.dumps(self._facts(self.path.stat())))
        draft.replace(self._marker)
        return True

    @asynccontextmanager
    async def lock(self, progress: Progress) -> AsyncIterator[None]:
        """Hold the right to change this file. Raises ModelError when somebody else holds it for too long."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / f"{self.model.file}.lock").open("wb") as handle:
            deadline = time.monotonic() + LONGEST_WAIT
            while not _try_lock(handle.fileno()):
                if time.monotonic() > deadline:
                    raise ModelError(
                        f"Another process has been fetching {self.path} for an hour. End it and try again."
                    )
                progress(
                    Step("waiting for another process that fetches the same model", self.received(), self.model.size)
                )
                await asyncio.sleep(0.5)
            yield

    def received(self) -> int:
        """How many bytes of the file have been fetched so far."""
        return self.partial.stat().st_size if self.partial.exists() else 0

    def _facts(self, found: os.stat_result) -> dict[str, int | str]:
        return {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "sha256": self.model.sha256}


def sha256(path: Path, size: int, progress: Progress) -> str:
    """The hash of a file that is `size` bytes long."""
    digest = hashlib.sha256()
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            progress(Step("verifying", done, size))
    return digest.hexdigest()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
