"""Looking whether the storage needs anything: one statement says so whenever a sweep would do something, else not."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa
from sqlmodel import col

from orchestrator import ids, storekeeping, uploads
from orchestrator.foreign import Json
from orchestrator.resources import Resources
from orchestrator.storekeeping import Swept
from orchestrator.tables import Blob, File, Upload, UploadPart, now
from tests.integration.test_housekeeping import Home
from tests.integration.test_short_way_plans import nodes, read

HOUR = 3600
TIMES = (-uploads.KEPT - HOUR, -uploads.KEPT + HOUR, -HOUR, HOUR)
"""Seconds from now at which something may end: each is far from where it would begin, or cease, to be due."""
STATES = ("pending", "completed", "cancelled", "expired")


@pytest_asyncio.fixture
async def store(bare: Resources) -> Home:
    """With nothing in it."""
    async with bare.database.transaction() as session:
        for table in (File, Upload, Blob):
            await session.execute(sa.delete(table))
    assert bare.database.direct is not None
    return Home(bare, bare.database.direct)


def file_(project_id: str, ends_in: int | None) -> File:
    expires_at = None if ends_in is None else now() + ends_in
    return File(project_id=project_id, purpose="vision", filename="a.png", bytes=1, expires_at=expires_at)


def upload_(project_id: str, status: str, ends_in: int) -> Upload:
    return Upload(
        project_id=project_id,
        status=status,
        expires_at=now() + ends_in,
        purpose="vision",
        filename="a.png",
        bytes=1,
        mime_type="image/png",
    )


def blob_(kept_for: int, *, file_id: str | None = None, part_id: str | None = None) -> Blob:
    kept_until = datetime.now(UTC) + timedelta(seconds=kept_for)
    return Blob(id=ids.new("blob_"), kept_until=kept_until, file_id=file_id, part_id=part_id)


async def put(bare: Resources, *rows: Json) -> None:
    async with bare.database.transaction() as session:
        for row in rows:
            session.add(row)
            await session.flush()


async def stock(bare: Resources) -> set[tuple[Any, ...]]:
    """All that a sweep could change."""
    async with bare.database.transaction() as session:
        found: list[tuple[Any, ...]] = []
        for columns in ((File.id,), (Upload.id, Upload.status), (UploadPart.id,), (Blob.id, Blob.doomed)):
            found += [tuple(row) for row in await session.execute(sa.select(*[col(each) for each in columns]))]
    return set(found)


def anything(random_: random.Random, project_id: str) -> list[Json]:
    """A thing of any kind, in any state, at any time, and what belongs to it."""
    kind, time = random_.choice(["file", "upload", "blob"]), random_.choice(TIMES)
    if kind == "file":
        file = file_(project_id, random_.choice([time, None]))
        return [file, blob_(-HOUR, file_id=file.id)]
    if kind == "upload":
        upload = upload_(project_id, random_.choice(STATES), time)
        part = UploadPart(upload_id=upload.id, bytes=1)
        return [upload, part, blob_(-HOUR, part_id=part.id)] if upload.status == "pending" else [upload]
    return [blob_(time)]


async def test_where_nothing_is_due_one_statement_says_so(bare: Resources, store: Home, project_id: str) -> None:
    file, upload = file_(project_id, HOUR), upload_(project_id, "pending", HOUR)
    await put(bare, file, file_(project_id, None), upload, blob_(-HOUR, file_id=file.id), blob_(HOUR))
    await put(bare, *[upload_(project_id, status, -HOUR) for status in STATES if status != "pending"])

    assert await storekeeping.look(store, bare.storage) == Swept()
    assert (len(store.short.statements), store.transactions) == (1, 0)


async def test_whatever_a_sweep_would_do_is_seen_and_nothing_else(
    bare: Resources, store: Home, project_id: str
) -> None:
    """What one sweep frees is another's to remove: each is compared with what was there before it."""
    random_ = random.Random(5)
    seen: set[bool] = set()
    for _ in range(40):
        await put(bare, *[row for _ in range(random_.choice([1, 1, 2])) for row in anything(random_, project_id)])
        while True:
            store.transactions, before = 0, await stock(bare)
            await storekeeping.look(store, bare.storage)
            saw = store.transactions > 0
            if not saw:
                await storekeeping.sweep(bare.database, bare.storage)
            assert (await stock(bare) != before) == saw
            seen.add(saw)
            if not saw:
                break
    assert seen == {True, False}


async def test_without_the_short_way_it_sweeps(bare: Resources, store: Home, project_id: str) -> None:
    await put(bare, file_(project_id, -HOUR))
    store.direct = None

    assert await storekeeping.look(store, bare.storage) == Swept(files=1)


@pytest.mark.parametrize("mode", ["custom", "generic"])
async def test_to_look_costs_a_walk_along_indexes_however_much_is_stored(
    bare: Resources, store: Home, project_id: str, mode: str
) -> None:
    await storekeeping.look(store, bare.storage)
    (statement,), terms = store.short.statements, store.short.terms
    connection = await store.short.another()
    try:
        await put(bare, file_(project_id, HOUR))
        await connection.execute(f"SET plan_cache_mode = force_{mode}_plan")
        await connection.execute(MANY)
        for learns in ("SELECT 1", "ANALYZE files", "ANALYZE uploads", "ANALYZE blobs"):
            await connection.execute(learns)
            ((plan,),) = await connection.fetch(f"EXPLAIN (FORMAT JSON) {statement}", *terms)
            walked = read(list(nodes(plan[0]["Plan"])))
            assert walked == {
                ("files", "files_expires_at"),
                ("uploads", "uploads_status_expires_at"),
                ("blobs", "blobs_loose"),
            }
    finally:
        await connection.execute("DELETE FROM files; DELETE FROM uploads; DELETE FROM blobs")
        await connection.close()


MANY = """
    INSERT INTO files (id, position, project_id, created_at, purpose, filename, bytes, expires_at)
    SELECT 'file-' || n, 1000000000 + n, project_id, created_at, purpose, filename, bytes, expires_at
    FROM files, generate_series(1, 1000) AS n;
    INSERT INTO uploads (id, project_id, created_at, expires_at, status, purpose, filename, bytes, mime_type)
    SELECT 'upload_' || id, project_id, created_at, expires_at, 'completed', purpose, filename, bytes, 'image/png'
    FROM files;
    INSERT INTO blobs (id, bytes, file_id, ordinal, kept_until, doomed)
    SELECT 'blob_' || id, bytes, id, 0, now(), false FROM files"""
