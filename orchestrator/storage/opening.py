"""Which storage a process uses: what `ASSISTANTD_STORAGE_URL` names."""

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestrator import ids
from orchestrator.settings import Settings
from orchestrator.storage import Storage, StorageError
from orchestrator.storage.local import LocalStorage


@contextmanager
def opened(settings: Settings) -> Iterator[Storage]:
    """The storage. Nothing is written, or asked for, before it is used."""
    address = urlsplit(settings.storage_url)
    if address.scheme == "s3":
        from orchestrator.storage.s3 import S3Storage  # 30 MB that a local folder does not need

        yield S3Storage(settings)
        return
    local = LocalStorage(Path(unquote(address.path)), settings.storage_timeout)
    try:
        yield local
    finally:
        local.close()


async def probe(storage: Storage) -> None:
    """Write, read and remove a small object. Raises StorageError, MissingBytesError."""
    key, content = ids.new("blob_"), secrets.token_bytes(64)

    async def once() -> AsyncIterator[bytes]:
        yield content

    await storage.write(key, once())
    try:
        found = b"".join([piece async for piece in storage.read(key, len(content))])
    finally:
        await storage.delete([key])
    if found != content:
        raise StorageError("what was read is not what was written")
