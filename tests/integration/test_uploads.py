"""Uploads and those who meet at them: completing, cancelling, adding and expiring, one after the other."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from sqlmodel import col

from orchestrator import blobs, storekeeping, uploads
from orchestrator.errors import InvalidRequest
from orchestrator.resources import Resources
from orchestrator.storekeeping import BATCH, Swept
from orchestrator.tables import Blob, File, Upload, UploadPart, now
from orchestrator.wire.requests import CompleteUpload, CreateUpload
from orchestrator.wire.requests.files import MAX_PARTS

MD5 = hashlib.md5(b"abcdef", usedforsecurity=False).hexdigest()


@pytest.fixture(autouse=True)
async def empty(bare: Resources) -> None:
    """Nothing of other tests is left for a sweep to find."""
    async with bare.database.transaction() as session:
        await session.execute(sa.delete(File))
        await session.execute(sa.delete(Upload))
    while await storekeeping.sweep(bare.database, bare.storage) != Swept():
        pass


async def begun(bare: Resources, project_id: str, size: int = 6) -> Upload:
    body = CreateUpload(filename="a.png", purpose="vision", mime_type="image/png", bytes=size)
    async with bare.database.transaction() as session:
        return await uploads.create(session, project_id, body, lifetime=3600, limit=10**9)


async def added(bare: Resources, upload: Upload, content: bytes) -> str:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    async with (
        blobs.arriving(bare.database, bare.storage, chunks(), lease=60) as arrived,
        bare.database.transaction() as session,
    ):
        return (await uploads.add_part(session, upload.project_id, upload.id, arrived, limit=10**9)).id


async def count(bare: Resources, table: type[File | Blob | UploadPart]) -> int:
    async with bare.database.transaction() as session:
        return int((await session.execute(sa.select(sa.func.count()).select_from(table))).scalar_one())


class Held:
    """A storage whose reading waits until it may go on."""

    def __init__(self, bare: Resources) -> None:
        self._storage = bare.storage
        self.reading, self.go_on = asyncio.Event(), asyncio.Event()

    async def read(self, key: str, size: int) -> AsyncGenerator[bytes, None]:
        self.reading.set()
        await self.go_on.wait()
        async for piece in self._storage.read(key, size):
            yield piece

    async def write(self, key: str, chunks: AsyncIterator[bytes]) -> int:
        return await self._storage.write(key, chunks)

    async def delete(self, keys: Sequence[str]) -> None:
        await self._storage.delete(keys)


@pytest.mark.parametrize("swept", [False, True])
async def test_who_cancels_while_the_checksum_is_computed_wins(bare: Resources, project_id: str, swept: bool) -> None:
    upload, held = await begun(bare, project_id), Held(bare)
    body = CompleteUpload(part_ids=[await added(bare, upload, b"abc"), await added(bare, upload, b"def")], md5=MD5)
    completing = asyncio.create_task(uploads.complete(bare.database, held, project_id, upload.id, body))
    await asyncio.wait_for(held.reading.wait(), 60)

    async with bare.database.transaction() as session:
        await uploads.cancel(session, project_id, upload.id)
    if swept:
        assert await storekeeping.sweep(bare.database, bare.storage) == Swept(blobs=2)
    held.go_on.set()

    with pytest.raises(InvalidRequest, match="Cannot complete upload with status 'cancelled'"):
        await asyncio.wait_for(completing, 60)
    assert await count(bare, File) == 0


async def test_case_137_of_two_who_check_sums_at_once_one_wins(bare: Resources, project_id: str) -> None:
    upload, held = await begun(bare, project_id), Held(bare)
    body = CompleteUpload(part_ids=[await added(bare, upload, b"abc"), await added(bare, upload, b"def")], md5=MD5)
    tasks = [uploads.complete(bare.database, held, project_id, upload.id, body) for _ in range(2)]
    completing = [asyncio.create_task(task) for task in tasks]
    await asyncio.wait_for(held.reading.wait(), 60)
    held.go_on.set()

    ended = await asyncio.wait_for(asyncio.gather(*completing, return_exceptions=True), 60)

    assert sorted(type(each).__name__ for each in ended) == ["InvalidRequest", "tuple"]
    assert (await count(bare, File), await count(bare, UploadPart), await count(bare, Blob)) == (1, 0, 2)


async def test_a_part_that_arrives_after_the_completion_leaves_nothing(bare: Resources, project_id: str) -> None:
    upload = await begun(bare, project_id, size=3)
    part, go_on = await added(bare, upload, b"abc"), asyncio.Event()

    async def late() -> AsyncIterator[bytes]:
        yield b"late"
        await go_on.wait()

    async def add() -> None:
        async with (
            blobs.arriving(bare.database, bare.storage, late(), lease=60) as arrived,
            bare.database.transaction() as session,
        ):
            await uploads.add_part(session, project_id, upload.id, arrived, limit=10**9)

    adding = asyncio.create_task(add())
    await uploads.complete(bare.database, bare.storage, project_id, upload.id, CompleteUpload(part_ids=[part]))
    go_on.set()

    with pytest.raises(InvalidRequest, match="Cannot add a part to upload with status 'completed'"):
        await asyncio.wait_for(adding, 60)
    await storekeeping.sweep(bare.database, bare.storage)
    assert await count(bare, Blob) == 1


async def test_uploads_whose_time_is_over_expire_and_their_bytes_go(bare: Resources, project_id: str) -> None:
    upload, other = await begun(bare, project_id), await begun(bare, project_id)
    for each in (upload, other):
        await added(bare, each, b"abc")
    await set_(bare, upload, expires_at=now())

    assert await storekeeping.sweep(bare.database, bare.storage) == Swept(uploads=1, blobs=1)

    assert await count(bare, UploadPart) == 1
    async with bare.database.transaction() as session:
        with pytest.raises(InvalidRequest, match="'expired'"):
            await uploads.pending(session, project_id, upload.id, "cancel")
        await uploads.pending(session, project_id, other.id, "cancel")


async def test_an_upload_that_cannot_be_ended_holds_up_no_other(bare: Resources, project_id: str) -> None:
    """Each is ended by itself: one statement for many uploads of thousands of parts would never end within its time."""
    stuck, other = await begun(bare, project_id), await begun(bare, project_id)
    for each in (stuck, other):
        await added(bare, each, b"abc")
        await set_(bare, each, expires_at=now())
    refusing = f"CREATE FUNCTION refuse() RETURNS trigger AS $$BEGIN IF OLD.upload_id = '{stuck.id}' THEN "
    refusing += "RAISE 'no'; END IF; RETURN OLD; END$$ LANGUAGE plpgsql"
    async with bare.database.transaction() as session:
        await session.execute(sa.text(refusing))
        await session.execute(
            sa.text("CREATE TRIGGER refuse BEFORE DELETE ON upload_parts FOR EACH ROW EXECUTE FUNCTION refuse()")
        )

    try:
        assert await storekeeping.sweep(bare.database, bare.storage) == Swept(uploads=1, blobs=1)
    finally:
        async with bare.database.transaction() as session:
            await session.execute(sa.text("DROP FUNCTION refuse CASCADE"))

    assert await storekeeping.sweep(bare.database, bare.storage) == Swept(uploads=1, blobs=1)
    assert await count(bare, UploadPart) == 0


async def test_a_sweep_that_took_all_it_may_says_that_there_may_be_more() -> None:
    assert not Swept(files=BATCH - 1, uploads=BATCH - 1, blobs=blobs.BATCH - 1).more
    assert all(full.more for full in (Swept(files=BATCH), Swept(uploads=BATCH), Swept(blobs=blobs.BATCH)))


async def test_uploads_that_ended_long_ago_are_forgotten(bare: Resources, project_id: str) -> None:
    old, young = await begun(bare, project_id), await begun(bare, project_id)
    for each in (old, young):
        async with bare.database.transaction() as session:
            await uploads.cancel(session, project_id, each.id)
    await set_(bare, old, expires_at=now() - uploads.KEPT)

    await storekeeping.sweep(bare.database, bare.storage)

    async with bare.database.transaction() as session:
        assert list((await session.execute(sa.select(col(Upload.id)))).scalars()) == [young.id]


async def set_(bare: Resources, upload: Upload, **values: object) -> None:
    async with bare.database.transaction() as session:
        await session.execute(sa.update(Upload).where(col(Upload.id) == upload.id).values(**values))


async def test_thousands_of_parts_are_joined_in_their_order(bare: Resources, project_id: str) -> None:
    """In one statement's time: the rows change their owner, no byte is touched."""
    size = MAX_PARTS
    upload = await begun(bare, project_id, size=size)
    parts = [f"part_{number:032x}" for number in range(size)]
    async with bare.database.transaction() as session:
        rows = [{"id": part, "upload_id": upload.id, "bytes": 1, "created_at": now()} for part in parts]
        await session.execute(sa.insert(UploadPart), rows)
        soon = datetime.now(UTC)
        owned = [{"id": f"blob_{part}", "part_id": part, "bytes": 1, "kept_until": soon} for part in parts]
        await session.execute(sa.insert(Blob), owned)

    body = CompleteUpload(part_ids=parts[::-1])
    _, file = await uploads.complete(bare.database, bare.storage, project_id, upload.id, body)

    async with bare.database.transaction() as session:
        found = (await blobs.of_files(session, [file.id]))[file.id]
        assert [blob.id for blob in found] == [f"blob_{part}" for part in parts[::-1]]
        await session.execute(sa.delete(Blob))
