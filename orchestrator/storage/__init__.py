"""Where the bytes of files live: one seam, a local folder behind it or any S3-compatible store.

What must not be forgotten:

- A key is ours (the id of a `Blob`), never a client's filename, and is written once: bytes under a key never change.
- An object is there as a whole or not at all, across a kill at any moment.
- The storage knows nothing of rows. Who may be seen, and what is to be removed, is decided by `orchestrator.blobs`.
- API and workers must see the same storage: a local folder is for processes of one machine (or a shared volume).
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Protocol

from orchestrator.errors import AssistantdError, Unavailable

AWAY = "The file storage is temporarily unavailable. Please try again later."


class StorageError(Unavailable):
    """The storage did not do what it should: it is away, full, or too slow. `reason` is for the operator alone."""

    def __init__(self, reason: str) -> None:
        super().__init__(AWAY)
        self.reason = reason

    def __repr__(self) -> str:
        return f"StorageError({self.reason!r})"


class MissingBytesError(AssistantdError):
    """The storage has no such object (any more)."""


class Storage(Protocol):
    """A store of whole objects."""

    async def write(self, key: str, chunks: AsyncIterator[bytes]) -> int:
        """Store what `chunks` yields and return how many bytes that were; memory does not grow with them.

        An error, also one that `chunks` raises, leaves no object. Raises StorageError.
        """
        ...

    def read(self, key: str, size: int) -> AsyncGenerator[bytes, None]:
        """The `size` bytes of an object, piece by piece. Raises MissingBytesError, StorageError."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects, and what an interrupted write left of them; those that are not there are no error.

        Raises StorageError.
        """
        ...
