"""Both storages keep one contract: objects are there as a whole or not at all; and rows and bytes stay together."""

import asyncio
import random
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlmodel import col

from orchestrator import blobs, files, ids, storekeeping
from orchestrator.cli import doctor_services
from orchestrator.cli.findings import Patient
from orchestrator.embedded.home import Home
from orchestrator.errors import Unavailable
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.storage import MissingBytesError, Storage, StorageError, opening
from orchestrator.storekeeping import Swept
from orchestrator.tables import Blob, File, Project, now
from tests.fakes import s3_server
from tests.fakes.s3_server import S3Server

LARGE = random.Random(7).randbytes(20_000_000)  # several pieces, several ranges, several parts of a multipart upload
URLS = {"DATABASE_URL": "postgresql://x", "REDIS_URL": "redis://x"}


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server.serving() as server:
        yield server


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    given = {"storage_url": tmp_path.as_uri()}
    if request.param == "s3":
        given = request.getfixturevalue("s3").settings
    with opening.opened(Settings.model_validate({**URLS, **given})) as storage:
        yield storage


async def chunks(content: bytes, size: int = 70_000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def breaking(content: bytes) -> AsyncIterator[bytes]:
    async for chunk in chunks(content):
        yield chunk
    raise ZeroDivisionError


async def read(storage: Storage, key: str, size: int) -> bytes:
    return b"".join([piece async for piece in storage.read(key, size)])


@pytest.mark.parametrize("size", [0, 1, 70_001, len(LARGE)])
async def test_what_was_written_is_read(storage: Storage, size: int) -> None:
    key = ids.new("blob_")

    assert await storage.write(key, chunks(LARGE[:size])) == size

    assert await read(storage, key, size) == LARGE[:size]


@pytest.mark.parametrize("size", [1000, len(LARGE)])
async def test_a_broken_write_leaves_nothing(storage: Storage, size: int) -> None:
    key = ids.new("blob_")

    with pytest.raises(ZeroDivisionError):
        await storage.write(key, breaking(LARGE[:size]))

    with pytest.raises(MissingBytesError):
        await read(storage, key, size)


async def test_a_broken_write_leaves_no_multipart_upload(s3: S3Server) -> None:
    with opening.opened(Settings.model_validate({**URLS, **s3.settings})) as storage:
        key = ids.new("blob_")
        with pytest.raises(ZeroDivisionError):
            await storage.write(key, breaking(LARGE))

    assert "<UploadId>" not in s3.unfinished()
    assert key not in s3.listed()


async def test_what_is_deleted_is_missing_and_deleting_it_again_is_no_error(storage: Storage) -> None:
    key = ids.new("blob_")
    await storage.write(key, chunks(b"x"))

    await storage.delete([key, ids.new("blob_")])
    await storage.delete([key])

    with pytest.raises(MissingBytesError):
        await read(storage, key, 1)


async def test_the_probe_finds_a_storage_that_works(storage: Storage) -> None:
    await opening.probe(storage)


async def test_a_storage_that_is_away_says_so_within_its_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    away: list[dict[str, object]] = [
        {"storage_url": (tmp_path / "file").as_uri()},
        {"storage_url": "s3://none", "storage_endpoint": "http://127.0.0.1:1", "storage_timeout": 1.0},
    ]
    keys = {"storage_access_key_id": "test", "storage_secret_access_key": "hidden", "storage_region": "us-east-1"}
    for given in away:
        settings = Settings.model_validate({**URLS, **keys, **given})
        with opening.opened(settings) as storage:
            async with asyncio.timeout(15):
                with pytest.raises(StorageError) as raised:
                    await opening.probe(storage)
            assert "hidden" not in repr(settings) + str(raised.value) + repr(raised.value)
            assert raised.value.reason


async def test_what_others_may_not_read_they_cannot(tmp_path: Path) -> None:
    with opening.opened(Settings.model_validate({**URLS, "storage_url": (tmp_path / "a b").as_uri()})) as storage:
        await storage.write(ids.new("blob_"), chunks(b"x"))

    paths = list((tmp_path / "a b").rglob("*"))
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_file()] == [0o600]
    assert {stat.S_IMODE((tmp_path / "a b" / name).stat().st_mode) for name in ("objects", "incoming")} == {0o700}


@pytest.mark.parametrize(
    "url", ["/folder", "file:///", "file://host/folder", "s3:///prefix", "s3://key:hidden@bucket", "http://x", ""]
)
def test_a_storage_that_is_none_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(ValueError, match="storage_url") as raised:
        Settings.model_validate({**URLS, "storage_url": url})

    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize("name", ["storage_access_key_id", "storage_secret_access_key"])
def test_half_a_key_of_the_storage_is_refused_and_not_ignored(name: str) -> None:
    with pytest.raises(ValueError, match="belong together") as raised:
        Settings.model_validate({**URLS, name: "hidden"})

    assert "hidden" not in str(raised.value)


# -- rows and bytes --


@pytest.fixture
async def tidy(bare: Resources) -> Resources:
    """The bare database with nothing in it that a sweep would find."""
    async with bare.database.transaction() as session:
        await session.execute(sa.delete(File))
    while await storekeeping.sweep(bare.database, bare.storage) != Swept():
        pass
    return bare


async def stored(bare: Resources, project_id: str, content: bytes = b"hello") -> File:
    named = {"filename": "a.txt", "purpose": "assistants_output"}
    return await files.store(bare.database, bare.storage, project_id, chunks(content), lease=60, **named)


async def keys(bare: Resources) -> list[str]:
    async with bare.database.transaction() as session:
        return list((await session.execute(sa.select(col(Blob.id)))).scalars())


def objects(bare: Resources) -> list[str]:
    folder = Path(bare.settings.storage_url.removeprefix("file://"))
    return [path.name for path in folder.rglob("blob_*")]


async def test_a_file_that_is_deleted_takes_its_bytes_along(tidy: Resources, project_id: str) -> None:
    file = await stored(tidy, project_id)
    assert objects(tidy) == await keys(tidy)

    async with tidy.database.transaction() as session:
        await files.delete(session, project_id, file.id)
    swept = await storekeeping.sweep(tidy.database, tidy.storage)

    assert swept == Swept(blobs=1)
    assert objects(tidy) == await keys(tidy) == []


async def test_files_that_are_over_go_by_themselves(tidy: Resources, project_id: str) -> None:
    file, other = await stored(tidy, project_id), await stored(tidy, project_id)
    async with tidy.database.transaction() as session:
        await session.execute(sa.update(File).where(col(File.id) == file.id).values(expires_at=now()))

    swept = await storekeeping.sweep(tidy.database, tidy.storage)

    assert swept == Swept(files=1, blobs=1)
    async with tidy.database.transaction() as session:
        assert list(await files.existing(session, project_id, [file.id, other.id, "\0"])) == [other.id]


async def test_files_of_a_project_that_is_removed_leave_no_bytes(tidy: Resources) -> None:
    async with tidy.database.transaction() as session:
        session.add(Project(id="proj_gone", name="gone"))
    await stored(tidy, "proj_gone")

    async with tidy.database.transaction() as session:
        await session.execute(sa.delete(Project).where(col(Project.id) == "proj_gone"))
    await storekeeping.sweep(tidy.database, tidy.storage)

    assert objects(tidy) == await keys(tidy) == []


async def test_a_writer_that_fails_gives_its_bytes_up_at_once(tidy: Resources) -> None:
    with pytest.raises(ZeroDivisionError):
        async with blobs.arriving(tidy.database, tidy.storage, breaking(b"x" * 100_000), lease=600):
            pytest.fail("it cannot have arrived")
    with pytest.raises(ZeroDivisionError):
        async with blobs.arriving(tidy.database, tidy.storage, chunks(b"x" * 100_000), lease=600):
            raise ZeroDivisionError
    assert len(objects(tidy)) == 1

    assert await storekeeping.sweep(tidy.database, tidy.storage) == Swept(blobs=2)
    assert objects(tidy) == await keys(tidy) == []


async def test_bytes_that_are_still_arriving_are_left_alone(tidy: Resources, project_id: str) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * 2_000_000
        arrived.set()
        await go_on.wait()
        yield b"y"

    named = {"filename": "a.txt", "purpose": "assistants_output"}
    storing = asyncio.create_task(files.store(tidy.database, tidy.storage, project_id, slow(), lease=600, **named))
    await asyncio.wait_for(arrived.wait(), 60)
    assert await storekeeping.sweep(tidy.database, tidy.storage) == Swept()
    go_on.set()
    file = await asyncio.wait_for(storing, 60)

    assert await storekeeping.sweep(tidy.database, tidy.storage) == Swept()
    async with tidy.database.transaction() as session:
        ((found, parts),) = await files.readable(session, [file.id, "file-none"])
    assert await files.content(tidy.storage, found, parts) == b"x" * 2_000_000 + b"y"


async def test_the_lease_is_renewed_while_bytes_come(tidy: Resources, project_id: str) -> None:
    """Each sweep in between would take the bytes of a writer that is silent for longer than its lease."""
    lease = 0.3

    async def slow() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * 10_000
            await asyncio.sleep(lease / 3)
            assert await storekeeping.sweep(tidy.database, tidy.storage) == Swept()

    named = {"filename": "a.txt", "purpose": "assistants_output"}
    file = await files.store(tidy.database, tidy.storage, project_id, slow(), lease=lease * 3, **named)

    assert file.bytes == 100_000


async def test_a_writer_whose_lease_is_over_gets_no_file(tidy: Resources, project_id: str) -> None:
    """Its bytes may be gone already: a row for them would promise what nobody has."""

    async def overtaken() -> AsyncIterator[bytes]:
        yield b"x"
        async with tidy.database.transaction() as session:
            await session.execute(sa.update(Blob).values(kept_until=sa.func.now()))
        assert await storekeeping.sweep(tidy.database, tidy.storage) == Swept(blobs=1)

    named = {"filename": "a.txt", "purpose": "assistants_output"}
    with pytest.raises(Unavailable):
        await files.store(tidy.database, tidy.storage, project_id, overtaken(), lease=600, **named)

    async with tidy.database.transaction() as session:
        assert (await session.execute(sa.select(sa.func.count()).select_from(File))).scalar_one() == 0
    await storekeeping.sweep(tidy.database, tidy.storage)
    assert objects(tidy) == await keys(tidy) == []


async def test_bytes_that_are_written_after_their_removal_are_removed_too(
    tidy: Resources, project_id: str, storage: Storage
) -> None:
    """A process that was stopped for longer than its lease goes on: no sweep would ever find what it still writes."""
    removed: list[str] = []

    async def overtaken() -> AsyncIterator[bytes]:
        yield b"x"
        removed.extend(await keys(tidy))
        async with tidy.database.transaction() as session:
            await session.execute(sa.update(Blob).values(kept_until=sa.func.now()))
        assert await storekeeping.sweep(tidy.database, storage) == Swept(blobs=1)
        yield b"y"

    named = {"filename": "a.txt", "purpose": "assistants_output"}
    with pytest.raises(Unavailable):
        await files.store(tidy.database, storage, project_id, overtaken(), lease=600, **named)

    with pytest.raises(MissingBytesError):
        await read(storage, removed[0], 2)


async def test_a_removal_that_fails_is_tried_again(
    tidy: Resources, project_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await stored(tidy, project_id)
    async with tidy.database.transaction() as session:
        await files.delete(session, project_id, file.id)

    class Away:
        """A storage that takes no deletion."""

        read, write = tidy.storage.read, tidy.storage.write

        async def delete(self, _keys: object) -> None:
            raise StorageError("away")

    with pytest.raises(StorageError):
        await storekeeping.sweep(tidy.database, Away())
    assert len(objects(tidy)) == 1

    monkeypatch.setattr(blobs, "AGAIN", blobs.AGAIN * 0)
    async with tidy.database.transaction() as session:
        await session.execute(sa.update(Blob).values(kept_until=sa.func.now()))
    assert await storekeeping.sweep(tidy.database, tidy.storage) == Swept(blobs=1)
    assert objects(tidy) == await keys(tidy) == []


async def test_the_sweep_walks_an_index(tidy: Resources, project_id: str) -> None:
    """However many files there are, finding what is loose must not look at them."""
    loose = sa.select(col(Blob.id)).where(blobs.LOOSE, col(Blob.kept_until) <= sa.func.now()).limit(blobs.BATCH)
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    explained = sa.text(f"EXPLAIN {loose.compile(dialect=dialect, compile_kwargs={'literal_binds': True})}")
    async with tidy.database.transaction() as session:
        file = File(project_id=project_id, filename="a.txt", purpose="assistants", bytes=0)
        session.add(file)
        await session.flush()
        owned = {"file_id": file.id, "kept_until": sa.func.now()}
        await session.execute(sa.insert(Blob).values([{"id": f"blob_{number}", **owned} for number in range(2000)]))
        await session.execute(sa.text("ANALYZE blobs"))

        plan = "\n".join((await session.execute(explained)).scalars())

        await session.execute(sa.delete(Blob).where(col(Blob.file_id) == file.id))
        await session.delete(file)
    assert "blobs_loose" in plan


# -- doctor --


@pytest.mark.parametrize(
    ("url", "verdict", "said"),
    [
        ("", "skipped", "no stack"),
        ("file://{folder}/new", "ok", "takes files"),
        ("file://{folder}/file/in/the/way", "failed", "Not a directory"),
        ("ftp://x", "failed", "ASSISTANTD_STORAGE_URL"),
        ("s3://key:hidden@bucket", "failed", "ASSISTANTD_STORAGE_URL"),
    ],
)
def test_doctor_says_whether_the_storage_takes_files(tmp_path: Path, url: str, verdict: str, said: str) -> None:
    (tmp_path / "file").write_text("in the way")
    patient = Patient(Home(tmp_path), "up", "", "", "", "", "", storage_url=url.format(folder=tmp_path))

    found = doctor_services.storage(patient)

    assert (found.verdict, bool(found.advice)) == (verdict, verdict == "failed")
    assert said in found.text
    assert "hidden" not in found.text


def test_doctor_says_which_settings_of_the_storage_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSISTANTD_STORAGE_ACCESS_KEY_ID", "hidden")

    found = doctor_services.storage(Patient(Home(tmp_path), "up", "", "", "", "", "", storage_url="s3://bucket"))

    assert found.verdict == "failed"
    assert "belong together" in found.text
    assert "hidden" not in found.text
