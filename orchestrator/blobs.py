"""Bytes and the rows that own them: never a row without its bytes, no bytes for ever without a row.

    row, with a lease ─▶ bytes arrive (the lease is renewed) ─▶ owner, in its own transaction
                                                            └▶ nobody: doomed ─▶ bytes removed ─▶ row removed

The row of a blob is committed before its first byte is written, so whatever is in the storage has a row, and sweeping
asks the database for what is loose instead of listing a bucket. A writer that was killed lets its lease run out; one
that failed gives it up at once. An owner that is deleted, by whomever, leaves its blobs loose (ON DELETE SET NULL), so
deleting a row is all that deleting a file takes. The sweep dooms a blob in one transaction and removes its bytes after
it; a doomed blob cannot be owned any more, so nobody gets a blob whose bytes are just being removed.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import structlog
from sqlalchemy import delete, func, insert, select, text, update
from sqlmodel import col

from orchestrator import ids
from orchestrator.db import Database, Session
from orchestrator.errors import Unavailable
from orchestrator.foreign import Json
from orchestrator.storage import Storage
from orchestrator.tables import Blob

log = structlog.get_logger(__name__)

BATCH = 200
"""Blobs that one sweep removes; the next sweep takes the next."""
AGAIN = timedelta(minutes=1)
"""A removal that failed, or whose process died, is tried again after this."""
LOOSE = text("file_id IS NULL AND part_id IS NULL")
"""The condition of the partial index, in literals."""
DUE: list[Json] = [LOOSE, col(Blob.kept_until) <= func.now()]
"""A blob that belongs to nobody, and that nobody is about to give an owner."""
TOO_LATE = "The bytes took too long to arrive. Please try again."
UNSEEN = {"synchronize_session": False}


@dataclass(frozen=True, slots=True)
class Arrived:
    """Bytes in the storage that wait for their owner."""

    id: str
    bytes: int


@asynccontextmanager
async def arriving(
    database: Database, storage: Storage, chunks: AsyncIterator[bytes], *, lease: float
) -> AsyncIterator[Arrived]:
    """Store what `chunks` yields; the block gives the bytes an owner (`own`), or they are removed.

    No transaction is open while bytes arrive. Raises StorageError, and what `chunks` raises.
    """
    blob = await _announce(database, lease)
    try:
        size = await storage.write(blob, _holding(database, blob, chunks, lease))
        yield Arrived(blob, size)
    except BaseException:
        await _let_go(database, storage, blob)
        raise


async def own(session: Session, arrived: Arrived, *, file_id: str | None = None, part_id: str | None = None) -> None:
    """Make a file or a part the owner of bytes that have arrived. Raises Unavailable if they came too late."""
    values: Json = {"bytes": arrived.bytes, "file_id": file_id, "part_id": part_id, "kept_until": func.now()}
    kept = update(Blob).where(col(Blob.id) == arrived.id, col(Blob.doomed).is_(False)).values(values)
    if (await session.execute(kept.returning(col(Blob.id)), execution_options=UNSEEN)).first() is None:
        raise Unavailable(TOO_LATE)


async def hand_over(session: Session, part_ids: Sequence[str], file_id: str) -> None:
    """Make a file the owner of the blobs of these parts, in this order."""
    places = {part_id: place for place, part_id in enumerate(part_ids)}
    found = await session.execute(select(col(Blob.id), col(Blob.part_id)).where(col(Blob.part_id).in_(part_ids)))
    rows = [{"id": blob, "part_id": None, "file_id": file_id, "ordinal": places[str(part)]} for blob, part in found]
    await session.execute(update(Blob), rows)


async def of_files(session: Session, file_ids: Sequence[str]) -> dict[str, list[Arrived]]:
    """The blobs of these files, in their order."""
    query = select(col(Blob.file_id), col(Blob.id), col(Blob.bytes)).where(col(Blob.file_id).in_(file_ids))
    found: dict[str, list[Arrived]] = {file_id: [] for file_id in file_ids}
    for file_id, blob, size in await session.execute(query.order_by(col(Blob.ordinal))):
        found[str(file_id)].append(Arrived(blob, size))
    return found


async def of_parts(session: Session, part_ids: Sequence[str]) -> list[Arrived]:
    """The blobs of these parts, in this order."""
    query = select(col(Blob.part_id), col(Blob.id), col(Blob.bytes)).where(col(Blob.part_id).in_(part_ids))
    found = {part: Arrived(blob, size) for part, blob, size in (await session.execute(query))}
    return [found[part] for part in part_ids if part in found]


async def content(storage: Storage, blobs: Sequence[Arrived]) -> AsyncGenerator[bytes, None]:
    """The bytes of these blobs, one after the other. Raises MissingBytesError, StorageError."""
    for blob in blobs:
        async with aclosing(storage.read(blob.id, blob.bytes)) as pieces:
            async for piece in pieces:
                yield piece


async def sweep(database: Database, storage: Storage) -> int:
    """Remove bytes that belong to nobody, and their rows. Returns how many blobs that were."""
    async with database.transaction() as session:
        due = select(col(Blob.id)).where(*DUE).limit(BATCH)
        doom = update(Blob).where(col(Blob.id).in_(due.with_for_update(skip_locked=True)))
        doom = doom.values(doomed=True, kept_until=func.now() + AGAIN).returning(col(Blob.id))
        doomed = (await session.execute(doom, execution_options=UNSEEN)).scalars().all()
    if doomed:
        await storage.delete(doomed)
        async with database.transaction() as session:
            await session.execute(delete(Blob).where(col(Blob.id).in_(doomed)), execution_options=UNSEEN)
    return len(doomed)


async def _announce(database: Database, lease: float) -> str:
    blob = ids.new("blob_")
    async with database.transaction() as session:
        await session.execute(insert(Blob).values(id=blob, kept_until=func.now() + timedelta(seconds=lease)))
    return blob


async def _holding(database: Database, blob: str, chunks: AsyncIterator[bytes], lease: float) -> AsyncIterator[bytes]:
    """The same chunks; the lease is renewed while they come."""
    renewed = time.monotonic()
    async for chunk in chunks:
        yield chunk
        if time.monotonic() - renewed > lease / 3:
            if not await _keep(database, blob, timedelta(seconds=lease)):
                raise Unavailable(TOO_LATE)  # before all the rest is sent in vain
            renewed = time.monotonic()


async def _let_go(database: Database, storage: Storage, blob: str) -> None:
    try:
        if not await _keep(database, blob, timedelta()):
            await storage.delete([blob])  # the sweep came first: what was written after it nobody else would find
    except Exception as error:  # what went wrong before is the error to be told; the lease runs out by itself
        log.warning("blob_not_let_go", blob_id=blob, error=type(error).__name__)


async def _keep(database: Database, blob: str, lease: timedelta) -> bool:
    """Whether it can be kept still."""
    kept = update(Blob).where(col(Blob.id) == blob, col(Blob.doomed).is_(False))
    kept = kept.values(kept_until=func.now() + lease)
    async with database.transaction() as session:
        found = await session.execute(kept.returning(col(Blob.id)), execution_options=UNSEEN)
        return found.first() is not None
