"""The uploads' verbs: a file that arrives in parts, in parallel if the client likes, until it is completed.

    pending ─▶ completed     its parts' bytes become the file's, in the order that the client says
            ├▶ cancelled     its parts go
            └▶ expired       the same, an hour after its creation

Nothing is copied: a file may have many blobs, and those of the parts change their owner. So completing 8 GB takes one
short transaction, which locks the upload's row: of two who complete, one comes second and is refused, and whoever dies
in between has done nothing. Only a checksum takes long. It is computed before, without a transaction: parts do not
change, and whether the upload is still pending is asked again after it.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import aclosing

from sqlalchemy import ColumnElement, TextClause, delete, func, select, text, update
from sqlmodel import col

from orchestrator import blobs, files, ids
from orchestrator.blobs import Arrived
from orchestrator.db import Database, Session
from orchestrator.echo import echo
from orchestrator.errors import InvalidRequest, NotFound
from orchestrator.foreign import Json
from orchestrator.storage import MissingBytesError, Storage, StorageError
from orchestrator.tables import File, Upload, UploadPart, now
from orchestrator.wire.requests import CompleteUpload, CreateUpload
from orchestrator.wire.requests.files import MAX_PARTS

KEPT = 30 * 24 * 3600
"""Seconds for which an upload that is over is remembered: a client that comes late hears why it is refused."""
ENDED = text("status IN ('completed', 'cancelled', 'expired')")
UNSEEN = {"synchronize_session": False}


async def create(session: Session, project_id: str, body: CreateUpload, *, lifetime: int, limit: int) -> Upload:
    """Begin an upload. Raises InvalidRequest if it would be larger than `limit` or than its purpose allows."""
    largest = body.largest(limit)
    if body.bytes > largest:
        message = (
            "Invalid 'bytes': integer above maximum value. "
            f"Expected a value <= {largest}, but got {body.bytes} instead."
        )
        raise InvalidRequest(message, param="bytes", code="integer_above_max_value")
    began = now()
    upload = Upload(
        project_id=project_id,
        created_at=began,
        expires_at=began + lifetime,
        purpose=body.purpose,
        filename=body.filename,
        bytes=body.bytes,
        mime_type=body.mime_type,
        lifetime=body.lifetime,
    )
    session.add(upload)
    await session.flush()
    return upload


async def pending(session: Session, project_id: str, upload_id: str, verb: str, *, lock: bool = False) -> Upload:
    """The upload, if it is still open to `verb`; with `lock`, its row stays locked until this transaction ends.

    Raises InvalidRequest when it is over or `upload_id` cannot be an id, NotFound.
    """
    ids.check("upload_id", "upload_", upload_id)
    query = select(Upload).where(col(Upload.id) == upload_id, col(Upload.project_id) == project_id)
    if lock:
        query = query.with_for_update(key_share=True)
    upload = (await session.execute(query)).scalar_one_or_none()
    if upload is None:
        raise NotFound("upload", upload_id)
    overdue = upload.status == "pending" and upload.expires_at <= now()
    status = "expired" if overdue else upload.status
    if status != "pending":
        raise InvalidRequest(f"Cannot {verb} upload with status '{status}'.")
    return upload


async def add_part(session: Session, project_id: str, upload_id: str, arrived: Arrived, *, limit: int) -> UploadPart:
    """Make bytes that have arrived a part. Raises InvalidRequest when the upload is over or its parts are too many."""
    upload = await pending(session, project_id, upload_id, "add a part to", lock=True)
    totals = select(func.count(), func.coalesce(func.sum(col(UploadPart.bytes)), 0))
    count, size = (await session.execute(totals.where(col(UploadPart.upload_id) == upload.id))).one()
    if count >= MAX_PARTS or size + arrived.bytes > limit:
        raise InvalidRequest(f"Upload {upload.id} takes at most {MAX_PARTS} parts and {limit} bytes.")
    part = UploadPart(upload_id=upload.id, bytes=arrived.bytes)
    session.add(part)
    await session.flush()
    await blobs.own(session, arrived, part_id=part.id)
    return part


async def complete(
    database: Database, storage: Storage, project_id: str, upload_id: str, body: CompleteUpload
) -> tuple[Upload, File]:
    """Make a file of the named parts, in their order. Raises InvalidRequest, NotFound, StorageError; then the upload
    is as it was.
    """
    if body.md5 is not None:
        await _check_md5(database, storage, project_id, upload_id, body)
    async with database.transaction() as session:
        upload = await pending(session, project_id, upload_id, "complete", lock=True)
        await _check_parts(session, upload, body.part_ids)
        file = await files.add(
            session,
            project_id,
            filename=upload.filename,
            purpose=upload.purpose,
            size=upload.bytes,
            lifetime=upload.lifetime,
            created_at=upload.created_at,
        )
        await blobs.hand_over(session, body.part_ids, file.id)
        await _drop_parts(session, upload.id)
        upload.status, upload.file_id = "completed", file.id
    return upload, file


async def cancel(session: Session, project_id: str, upload_id: str) -> Upload:
    """End the upload without a file. Raises InvalidRequest when it is over."""
    upload = await pending(session, project_id, upload_id, "cancel", lock=True)
    upload.status = "cancelled"
    await _drop_parts(session, upload.id)
    return upload


async def overdue(session: Session, limit: int) -> Sequence[str]:
    """Uploads whose time is over and that nobody has ended."""
    return (await session.execute(select(col(Upload.id)).where(*over(now())).limit(limit))).scalars().all()


async def expire(session: Session, upload_id: str) -> bool:
    """End an upload whose time is over, unless somebody else is at it."""
    due = select(col(Upload.id)).where(col(Upload.id) == upload_id, *over(now())).with_for_update(skip_locked=True)
    end = update(Upload).where(col(Upload.id) == due.scalar_subquery()).values(status="expired")
    ended = (await session.execute(end.returning(col(Upload.id)), execution_options=UNSEEN)).first() is not None
    if ended:
        await _drop_parts(session, upload_id)
    return ended


async def forget(session: Session, limit: int) -> None:
    """Remove uploads that ended long ago."""
    old = select(col(Upload.id)).where(*old_enough(now())).limit(limit).with_for_update(skip_locked=True)
    await session.execute(delete(Upload).where(col(Upload.id).in_(old)), execution_options=UNSEEN)


def over(at: Json) -> list[ColumnElement[bool]]:
    """What makes an upload one whose time is over and that nobody has ended, at this time."""
    return [col(Upload.status) == "pending", col(Upload.expires_at) <= at]


def old_enough(at: Json) -> list[ColumnElement[bool] | TextClause]:
    """What makes an upload one that ended long ago, at this time."""
    return [ENDED, col(Upload.expires_at) <= at - KEPT]


async def _drop_parts(session: Session, upload_id: str) -> None:
    """Their bytes, if they are still theirs, belong to nobody from here on."""
    await session.execute(delete(UploadPart).where(col(UploadPart.upload_id) == upload_id), execution_options=UNSEEN)


async def _check_parts(session: Session, upload: Upload, part_ids: Sequence[str]) -> None:
    query = select(col(UploadPart.id), col(UploadPart.bytes)).where(col(UploadPart.upload_id) == upload.id)
    sizes = {part: size for part, size in await session.execute(query)}  # noqa: C416  # of rows mypy makes no dict
    seen: set[str] = set()
    for place, part in enumerate(part_ids):
        if part not in sizes or part in seen:
            what = "is named twice" if part in seen else "is no part of this upload"
            param = f"part_ids[{place}]"
            raise InvalidRequest(f"Invalid '{param}': '{echo(part, 64)}' {what}.", param=param, code="invalid_value")
        seen.add(part)
    size = sum(sizes[part] for part in part_ids)
    if size != upload.bytes:
        message = f"The parts have {size} bytes together, but the upload was created for {upload.bytes} bytes."
        raise InvalidRequest(message, param="part_ids", code="invalid_value")


async def _check_md5(
    database: Database, storage: Storage, project_id: str, upload_id: str, body: CompleteUpload
) -> None:
    async with database.transaction() as session:
        upload = await pending(session, project_id, upload_id, "complete")
        await _check_parts(session, upload, body.part_ids)
        found = await blobs.of_parts(session, body.part_ids)
    digest = hashlib.md5(usedforsecurity=False)
    try:
        async with aclosing(blobs.content(storage, found)) as pieces:
            async for piece in pieces:
                await asyncio.to_thread(digest.update, piece)
    except MissingBytesError as error:
        async with database.transaction() as session:  # it was cancelled in the meantime, most likely
            await pending(session, project_id, upload_id, "complete")
        raise StorageError("the bytes of a part are missing") from error
    if digest.hexdigest() != (body.md5 or "").lower():
        message = f"The parts have the MD5 checksum {digest.hexdigest()}, not the one that was sent."
        raise InvalidRequest(message, param="md5", code="invalid_value")
