"""Files in a folder: written beside their place, flushed to the disk, then moved into it.

    <folder>/objects/ab/blob_ab…    whole objects
    <folder>/incoming/blob_ab…      what is being written; a killed writer's rest is removed with its key

Every call of the file system happens in a few threads of our own: a slow disk then holds up neither the event loop nor
what else the process does in threads. What a thread is stuck in cannot be interrupted, only no longer waited for.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from orchestrator.storage import MissingBytesError, StorageError

PIECE = 1024 * 1024
"""Bytes that one trip to a thread writes."""
RANGE = 256 * 1024
"""Bytes that one trip reads: what a client that reads slowly has us hold."""
FLUSH_EVERY = 64 * 1024 * 1024
"""So that the last flush of a large file does not take longer than one may wait."""
THREADS = 8

P = ParamSpec("P")
R = TypeVar("R")


class LocalStorage:
    """A folder that is ours alone; it is made when it is first written to."""

    def __init__(self, folder: Path, timeout: float) -> None:
        self._objects = folder / "objects"
        self._incoming = folder / "incoming"
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(THREADS, "storage")

    def close(self) -> None:
        """Let the threads go when they have done what was left to them, such as closing files."""
        self._threads.shutdown(wait=False)

    async def write(self, key: str, chunks: AsyncIterator[bytes]) -> int:
        """See Storage."""
        file = await self._in_thread(self._create, key)
        try:
            size = await self._fill(file, chunks)
            await self._in_thread(self._finish, key, file)
        except BaseException:
            self._behind(self._abandon, key, file)
            raise
        return size

    async def read(self, key: str, size: int) -> AsyncGenerator[bytes, None]:
        """See Storage. The file is held open: who has begun to read gets all of it, deleted or not."""
        file = await self._in_thread(self._open, key)
        try:
            left = size
            while left and (piece := await self._in_thread(file.read, min(RANGE, left))):
                left -= len(piece)
                yield piece
            if left:
                raise MissingBytesError(key)
        finally:
            self._behind(file.close)

    async def delete(self, keys: Sequence[str]) -> None:
        """See Storage."""
        await self._in_thread(self._unlink, keys)

    async def _fill(self, file: BinaryIO, chunks: AsyncIterator[bytes]) -> int:
        size = unflushed = 0
        async for piece in _pieces(chunks):
            size += len(piece)
            unflushed += len(piece)
            await self._in_thread(file.write, piece)
            if unflushed >= FLUSH_EVERY:
                await self._in_thread(_flush, file)
                unflushed = 0
        return size

    def _place(self, key: str) -> Path:
        return self._objects / key.rpartition("_")[2][:2] / key

    def _create(self, key: str) -> BinaryIO:
        for folder in (self._incoming, self._objects):  # parents get another mode
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._incoming / key, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        return os.fdopen(descriptor, "wb")

    def _open(self, key: str) -> BinaryIO:
        try:
            return self._place(key).open("rb")
        except FileNotFoundError:
            raise MissingBytesError(key) from None

    def _finish(self, key: str, file: BinaryIO) -> None:
        _flush(file)
        file.close()
        place = self._place(key)
        place.parent.mkdir(mode=0o700, exist_ok=True)
        (self._incoming / key).rename(place)
        for folder in (place.parent, self._objects):  # the names must survive a power failure too
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _abandon(self, key: str, file: BinaryIO) -> None:
        with suppress(OSError):  # it may be what failed; housekeeping tries again
            file.close()
        with suppress(OSError):
            (self._incoming / key).unlink(missing_ok=True)

    def _unlink(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._place(key).unlink(missing_ok=True)
            (self._incoming / key).unlink(missing_ok=True)

    async def _in_thread(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout):
                return await loop.run_in_executor(self._threads, lambda: call(*args, **kwargs))
        except (OSError, TimeoutError) as error:
            raise StorageError(getattr(error, "strerror", None) or type(error).__name__) from error

    def _behind(self, call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """In a thread, without waiting for it: for what follows an error or the end."""
        with suppress(RuntimeError):  # the process ends, and closes all files itself
            self._threads.submit(call, *args, **kwargs)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


async def _pieces(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in larger pieces: each costs a trip to a thread."""
    waiting: list[bytes] = []
    size = 0
    async for chunk in chunks:
        waiting.append(chunk)
        size += len(chunk)
        if size >= PIECE:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)
