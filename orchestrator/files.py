"""The files' verbs. A file's bytes are in the storage before its row is here; see `blobs` for how that holds."""

from collections.abc import AsyncIterator, Iterable, Sequence

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy import delete as sql_delete
from sqlmodel import col

from orchestrator import blobs
from orchestrator.blobs import Arrived
from orchestrator.db import Database, Session
from orchestrator.echo import echo
from orchestrator.errors import InvalidRequest, NoSuchFile
from orchestrator.foreign import Json
from orchestrator.pages import page
from orchestrator.storage import MissingBytesError, Storage
from orchestrator.tables import File, now
from orchestrator.wire.requests import CreateFile, ListFilesQuery
from orchestrator.wire.requests.fields import text_problem

WITHHELD = frozenset({"assistants", "user_data"})
"""Purposes whose files the original did not give back."""
UNSEEN = {"synchronize_session": False}


async def create(session: Session, project_id: str, body: CreateFile, arrived: Arrived) -> File:
    """Store a file whose bytes have arrived. Raises Unavailable if they came too late."""
    file = await add(
        session,
        project_id,
        filename=body.filename,
        purpose=body.purpose,
        size=arrived.bytes,
        lifetime=body.lifetime,
    )
    await blobs.own(session, arrived, file_id=file.id)
    return file


async def store(
    database: Database,
    storage: Storage,
    project_id: str,
    chunks: AsyncIterator[bytes],
    *,
    filename: str,
    purpose: str,
    lease: float,
) -> File:
    """Store a file that no client sent, such as one that a tool made. Raises StorageError."""
    async with blobs.arriving(database, storage, chunks, lease=lease) as arrived, database.transaction() as session:
        file = await add(session, project_id, filename=filename, purpose=purpose, size=arrived.bytes)
        await blobs.own(session, arrived, file_id=file.id)
    return file


async def add(
    session: Session,
    project_id: str,
    *,
    filename: str,
    purpose: str,
    size: int,
    lifetime: int | None = None,
    created_at: int | None = None,
) -> File:
    """The row of a file; whoever adds it makes it the owner of its bytes in the same transaction."""
    began = now() if created_at is None else created_at
    expires_at = None if lifetime is None else began + lifetime
    file = File(
        project_id=project_id,
        created_at=began,
        purpose=purpose,
        filename=filename,
        bytes=size,
        expires_at=expires_at,
    )
    session.add(file)
    await session.flush()
    return file


async def retrieve(session: Session, project_id: str, file_id: str, *, lock: bool = False) -> File:
    """The file; with `lock`, its row stays locked until this transaction ends. Raises NoSuchFile."""
    file = None
    if text_problem(file_id) is None:
        query = select(File).where(col(File.id) == file_id, *_visible(project_id))
        if lock:
            query = query.with_for_update()
        file = (await session.execute(query)).scalar_one_or_none()
    if file is None:
        raise NoSuchFile(echo(file_id, 64))
    return file


async def list_(session: Session, project_id: str, query: ListFilesQuery) -> tuple[list[File], bool]:
    """A page of the project's files, of one purpose if the query says so, and whether there are more."""
    scope = _visible(project_id)
    if query.purpose is not None:
        scope.append(col(File.purpose) == query.purpose)
    return await page(session, File, query, *scope)


async def delete(session: Session, project_id: str, file_id: str) -> str:
    """Remove the file; its bytes follow within seconds. Returns its id."""
    await session.delete(await retrieve(session, project_id, file_id, lock=True))
    return file_id


async def existing(session: Session, project_id: str, file_ids: Iterable[str]) -> dict[str, File]:
    """Those of these files that the project has, by their ids."""
    wanted = [file_id for file_id in file_ids if text_problem(file_id) is None]
    if not wanted:
        return {}
    found = await session.execute(select(File).where(col(File.id).in_(wanted), *_visible(project_id)))
    return {file.id: file for file in found.scalars()}


async def downloadable(
    session: Session, project_id: str, file_id: str, *, any_purpose: bool
) -> tuple[File, list[Arrived]]:
    """The file and its blobs, for a client that wants its bytes back. Raises NoSuchFile, InvalidRequest."""
    file = await retrieve(session, project_id, file_id)
    if file.purpose in WITHHELD and not any_purpose:
        raise InvalidRequest(f"Not allowed to download files of purpose: {file.purpose}")
    return file, (await blobs.of_files(session, [file.id]))[file.id]


async def readable(session: Session, file_ids: Iterable[str]) -> list[tuple[File, list[Arrived]]]:
    """Those of these files that are there, in the given order, with what `content` needs: for whoever has checked whose
    they are.
    """
    wanted = list(file_ids)
    rows = (await session.execute(select(File).where(col(File.id).in_(wanted), *_unexpired()))).scalars()
    found = {file.id: file for file in rows}
    there = await blobs.of_files(session, list(found))
    return [(found[file_id], there[file_id]) for file_id in wanted if file_id in found]


async def content(storage: Storage, file: File, found: Sequence[Arrived]) -> bytes:
    """All bytes of a file; look at its size before. No transaction should be open meanwhile.

    Raises MissingBytesError when it was deleted in the meantime, StorageError.
    """
    whole = b"".join([piece async for piece in blobs.content(storage, found)])
    if len(whole) != file.bytes:
        raise MissingBytesError(file.id)
    return whole


async def overdue(session: Session, limit: int) -> Sequence[str]:
    """Files whose time is over."""
    return (await session.execute(select(col(File.id)).where(*over(now())).limit(limit))).scalars().all()


async def expire(session: Session, file_id: str) -> bool:
    """Remove a file whose time is over, unless somebody else is at it."""
    due = select(col(File.id)).where(col(File.id) == file_id, *over(now())).with_for_update(skip_locked=True)
    gone = sql_delete(File).where(col(File.id) == due.scalar_subquery()).returning(col(File.id))
    return (await session.execute(gone, execution_options=UNSEEN)).first() is not None


def over(at: Json) -> list[ColumnElement[bool]]:
    """What makes a file one whose time is over, at this time."""
    return [col(File.expires_at).is_not(None), col(File.expires_at) <= at]


def _visible(project_id: str) -> list[ColumnElement[bool]]:
    return [col(File.project_id) == project_id, *_unexpired()]


def _unexpired() -> list[ColumnElement[bool]]:
    return [or_(col(File.expires_at).is_(None), col(File.expires_at) > now())]
