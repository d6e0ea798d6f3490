"""An S3-compatible store through obstore.

An object of more than one piece is a multipart upload, which appears when it is completed; an error aborts it. What the
pieces of a killed process cost is not visible to anybody but the store: give the bucket a lifecycle rule that aborts
incomplete multipart uploads (all of these stores know one). Reading asks for one range after the other, so that a
client that reads slowly holds no connection to the store, and every request has an end.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from orchestrator.echo import echo
from orchestrator.settings import Settings
from orchestrator.storage import MissingBytesError, StorageError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config

PIECE = 5 * 1024 * 1024
"""Bytes of a multipart upload's part, the fewest that S3 takes: what a write holds in memory, twice."""
AT_ONCE = 1
"""Parts of one object that travel while the next one is filled."""
WRITES = 64
"""Writes of one process at a time; a further one is told to come back."""
RANGE = 2 * 1024 * 1024
"""Bytes that one request of a read asks for, and holds in memory."""
RETRIES = 3
MAX_REASON = 300
"""Characters of the store's own error, which repeats addresses and answers, for the operator's eyes."""


class S3Storage:
    """A bucket, or what lies in it under a prefix."""

    def __init__(self, settings: Settings) -> None:
        self._writes = 0
        address = urlsplit(settings.storage_url)
        timeout = timedelta(seconds=settings.storage_timeout)
        endpoint = settings.storage_endpoint
        client: ClientConfig = {
            "timeout": timeout,
            "connect_timeout": timeout,
            "allow_http": bool(endpoint and endpoint.startswith("http://")),
        }
        self._store = S3Store(
            address.netloc,
            prefix=address.path.strip("/") or None,
            config=_config(settings),
            client_options=client,
            retry_config={"max_retries": RETRIES, "retry_timeout": timeout},
        )

    async def write(self, key: str, chunks: AsyncIterator[bytes]) -> int:
        """See Storage."""
        if self._writes >= WRITES:
            raise StorageError(f"{WRITES} writes are under way")
        self._writes += 1
        try:
            return await self._write(key, chunks)
        finally:
            self._writes -= 1

    async def read(self, key: str, size: int) -> AsyncGenerator[bytes, None]:
        """See Storage."""
        for start in range(0, size, RANGE):
            length = min(RANGE, size - start)
            with _told():
                try:
                    piece = bytes(await obstore.get_range_async(self._store, key, start=start, length=length))
                except FileNotFoundError:
                    raise MissingBytesError(key) from None
            if len(piece) != length:
                raise MissingBytesError(key)
            yield piece

    async def delete(self, keys: Sequence[str]) -> None:
        """See Storage."""
        with _told():
            await obstore.delete_async(self._store, list(keys))

    async def _write(self, key: str, chunks: AsyncIterator[bytes]) -> int:
        size = 0
        with _told():
            async with obstore.open_writer_async(self._store, key, buffer_size=PIECE, max_concurrency=AT_ONCE) as file:
                async for chunk in chunks:
                    await file.write(chunk)
                    size += len(chunk)
        return size


def _config(settings: Settings) -> "S3Config":
    """What is set here; what is not, obstore takes from the standard AWS environment."""
    config: S3Config = {}
    if settings.storage_endpoint:
        config["endpoint"] = settings.storage_endpoint
    if settings.storage_region:
        config["region"] = settings.storage_region
    if settings.storage_access_key_id and settings.storage_secret_access_key:
        config["access_key_id"] = settings.storage_access_key_id.get_secret_value()
        config["secret_access_key"] = settings.storage_secret_access_key.get_secret_value()
    return config


@contextmanager
def _told() -> Iterator[None]:
    """The store's errors as ours."""
    try:
        yield
    except (BaseError, OSError, TimeoutError) as error:
        first, _, _ = str(error).partition("\n")
        raise StorageError(f"{type(error).__name__}: {echo(first, MAX_REASON)}") from error
