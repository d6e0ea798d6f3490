"""What the storage needs done by the clock: files and uploads end when their time is over, and bytes of nobody go.

Each step takes a bounded batch and skips what another process is at, so any number of workers may do it at once; what
is left is taken by the next sweep. A storage that is away holds up nothing but its own bytes.
"""

from dataclasses import dataclass

import structlog

from orchestrator import blobs, files, uploads
from orchestrator.db import Database
from orchestrator.storage import Storage

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Swept:
    """How much a sweep touched."""

    files: int = 0
    uploads: int = 0
    blobs: int = 0


async def sweep(database: Database, storage: Storage) -> Swept:
    """Do what is due. Raises StorageError when bytes cannot be removed now."""
    async with database.transaction() as session:
        ended = Swept(files=await files.expire(session), uploads=await uploads.expire(session))
    swept = Swept(ended.files, ended.uploads, await blobs.sweep(database, storage))
    if swept != Swept():
        log.info("storage_swept", files=swept.files, uploads=swept.uploads, blobs=swept.blobs)
    return swept
