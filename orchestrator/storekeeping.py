"""What the storage needs done by the clock: files and uploads end when their time is over, and bytes of nobody go.

Each step takes a bounded batch and skips what another process is at, so any number of workers may do it at once; what
is left is taken by the next sweep. Files and uploads end one by one: each may have thousands of blobs, and a statement
that ended many of them could be one that never ends within its time. A storage that is away holds up nothing but its
own bytes.

Nearly always there is nothing to do: one statement finds that out, where a sweep takes two transactions (`look`).
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import structlog
from sqlalchemy import BigInteger, Select, bindparam, exists, or_, select, text

from orchestrator import blobs, files, uploads, written
from orchestrator.db import Database, Session
from orchestrator.direct import Direct
from orchestrator.storage import Storage
from orchestrator.tables import Blob, File, Upload, now

log = structlog.get_logger(__name__)

BATCH = 200
"""Files, and uploads, that one sweep ends; the next sweep takes the next."""


@dataclass(frozen=True, slots=True)
class Swept:
    """How much a sweep touched."""

    files: int = 0
    uploads: int = 0
    blobs: int = 0

    @property
    def more(self) -> bool:
        """Whether something may be left that is due already."""
        return self.files >= BATCH or self.uploads >= BATCH or self.blobs >= blobs.BATCH


async def sweep(database: Database, storage: Storage) -> Swept:
    """Do what is due. Raises StorageError when bytes cannot be removed now."""
    async with database.transaction() as session:
        old_files, old_uploads = await files.overdue(session, BATCH), await uploads.overdue(session, BATCH)
        await uploads.forget(session, BATCH)
    ended_files = await _end_each(database, old_files, files.expire)
    ended_uploads = await _end_each(database, old_uploads, uploads.expire)
    swept = Swept(ended_files, ended_uploads, await blobs.sweep(database, storage))
    if swept != Swept():
        log.info("storage_swept", files=swept.files, uploads=swept.uploads, blobs=swept.blobs)
    return swept


async def look(database: Database, storage: Storage) -> Swept:
    """Sweep, if there is anything to do. Raises StorageError when bytes cannot be removed now."""
    if database.direct is not None and not await _needed(database.direct):
        return Swept()
    return await sweep(database, storage)


async def _needed(direct: Direct) -> bool:
    (row,) = await written.fetch(direct, _anything(), {"now": now()})  # by the clock that a sweep goes by
    return bool(row[0])


@lru_cache
def _anything() -> Select[bool]:
    """What a sweep looks for."""
    at = bindparam("now", type_=BigInteger)
    due = {File: files.over(at), Upload: uploads.over(at), Blob: blobs.DUE}
    found = [exists(select(text("1")).select_from(table).where(*those)) for table, those in due.items()]
    old = exists(select(text("1")).select_from(Upload).where(*uploads.old_enough(at)))
    return select(or_(*found, old))


async def _end_each(database: Database, ids: Sequence[str], end: Callable[[Session, str], Awaitable[bool]]) -> int:
    ended = 0
    for id_ in ids:
        try:
            async with database.transaction() as session:
                ended += await end(session, id_)
        except Exception as error:  # one that cannot be ended does not keep the others from it
            log.warning("not_expired", id=id_, error=type(error).__name__)
    return ended
