"""Has a model's file at hand: at once when it is in the cache, else fetched from the first source that delivers it.

Only the pinned bytes are ever given out. A source that the user names is the only one tried: who says where to take it
from does not want it from elsewhere.
"""

import asyncio
import errno
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from orchestrator.embedded.model.cache import CachedFile, Progress, SourceError
from orchestrator.embedded.model.catalogue import PUBLISHER, ModelError, ModelFile, find
from orchestrator.embedded.model.index import from_index
from orchestrator.embedded.model.sources import from_given, from_url

SPARE = 200 * 1024 * 1024
ELSEWHERE = "or set ASSISTANTD_MODEL_CACHE to another folder"
Source = Callable[[CachedFile, Progress], Awaitable[None]]


async def ensure(name: str, progress: Progress, *, source: str | None = None) -> Path:
    """The path of the model's file, fetched now if this machine does not have it yet.

    `source` is a path or an address to take it from. Raises ModelError, with what to do, when the file cannot be had.
    """
    return await ensure_file(CachedFile(find(name)), progress, source=source)


async def ensure_file(cached: CachedFile, progress: Progress, *, source: str | None = None) -> Path:
    """The same for any file of any cache."""
    if cached.is_complete():
        return cached.path
    try:
        async with cached.lock(progress):
            if not (cached.is_complete() or await asyncio.to_thread(_adopt, cached, progress)):
                _check_space(cached)
                await _fetch(cached, progress, source)
    except OSError as error:
        raise ModelError(_explain(error, cached)) from error
    return cached.path


def _adopt(cached: CachedFile, progress: Progress) -> bool:
    """Take over a file that somebody put into the cache by hand, if it is the right one."""
    return cached.path.exists() and cached.accept(cached.path, progress)


def _check_space(cached: CachedFile) -> None:
    needed = cached.model.size - cached.received() + SPARE
    free = shutil.disk_usage(cached.root).free
    if free < needed:
        raise ModelError(
            f"The model needs {needed // 2**20:,} MB in {cached.root}, where {free // 2**20:,} MB are free. "
            f"Make room, {ELSEWHERE}."
        )


async def _fetch(cached: CachedFile, progress: Progress, given: str | None) -> None:
    reasons = []
    for label, source in _sources(cached.model, given):
        try:
            await _deliver(cached, source, progress)
        except SourceError as error:
            reasons.append(f"{label}: {error}")
        else:
            return
    raise ModelError(
        f"The model could not be fetched ({'; '.join(reasons)}). Check the network and try again, or get the file "
        f"{cached.model.file} in any other way and run `model pull --model {cached.model.name} --from FILE`."
    )


async def _deliver(cached: CachedFile, source: Source, progress: Progress) -> None:
    """Take the file from one source; from its start once more if it did not fit to what another one had left."""
    for resumed in (cached.received() > 0, False):
        await source(cached, progress)
        if await asyncio.to_thread(cached.accept, cached.partial, progress):
            return
        if not resumed:
            break
    raise SourceError("these are not the expected bytes (the SHA-256 differs), so they were thrown away")


def _sources(model: ModelFile, given: str | None) -> list[tuple[str, Source]]:
    if given is not None:
        return [("the given source", lambda cached, progress: from_given(cached, given, progress))]
    sources: list[tuple[str, Source]] = []
    if model.publisher:
        url = PUBLISHER.format(repository=model.publisher, file=model.file)
        sources.append(("the publisher", lambda cached, progress: from_url(cached, url, progress)))
    return [*sources, ("the package index", from_index)]


def _explain(error: OSError, cached: CachedFile) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk that holds {cached.root} is full. Make room, {ELSEWHERE}."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{cached.root} cannot be written to. Change its owner, {ELSEWHERE}."
    return f"The model could not be written to {cached.root} ({error.strerror or error}). Free it, {ELSEWHERE}."
