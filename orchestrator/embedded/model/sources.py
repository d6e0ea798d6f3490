"""Where a model's bytes come from: a file on this machine, or an address. (The copy on the package index: `index.py`.)

Each source is an async function that makes `<file>.part` longer until it has all bytes, continuing where it ends. None
of them decides whether the bytes are right: the hash of the whole does.
"""

import asyncio
from pathlib import Path
from urllib.parse import unquote, urlsplit

import aiohttp

from orchestrator.embedded.model.cache import CHUNK, CachedFile, Progress, SourceError, Step

CONNECT_TIMEOUT = 8.0
SILENCE_TIMEOUT = 30.0
WHOLE, PARTIAL = 200, 206


async def from_given(cached: CachedFile, source: str, progress: Progress) -> None:
    """Take the file from a path or URL that the user gave."""
    scheme = urlsplit(source).scheme
    if scheme in ("http", "https"):
        return await from_url(cached, source, progress)
    if scheme == "file":
        source = unquote(urlsplit(source).path)
    elif "://" in source:
        raise SourceError(f"{scheme} addresses are not supported, only http, https and file")
    return await asyncio.to_thread(_copy, source, cached, progress)


def _copy(path: str, cached: CachedFile, progress: Progress) -> None:
    source = Path(path).expanduser()
    if not source.is_file():
        raise SourceError(f"{source} is not a file")
    if source.stat().st_size != cached.model.size:
        raise SourceError(f"{source} has {source.stat().st_size:,} bytes instead of {cached.model.size:,}")
    with source.open("rb") as file, cached.partial.open("wb") as partial:
        while chunk := file.read(CHUNK):
            partial.write(chunk)
            progress(Step("copying", partial.tell(), cached.model.size))


async def from_url(cached: CachedFile, url: str, progress: Progress) -> None:
    """Fetch the rest of the file from an address. Proxies come from the environment."""
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=CONNECT_TIMEOUT, connect=CONNECT_TIMEOUT, sock_read=SILENCE_TIMEOUT
    )
    try:
        async with aiohttp.ClientSession(timeout=timeout, trust_env=True, auto_decompress=False) as session:
            await _fetch_rest(session, cached, url, progress)
    except TimeoutError as error:
        raise SourceError("it did not answer in time") from error
    except aiohttp.InvalidURL as error:
        raise SourceError("that is not an address") from error
    except aiohttp.ClientPayloadError as error:
        raise SourceError("the connection broke; what was fetched is kept") from error
    except aiohttp.ClientError as error:
        raise SourceError("it could not be reached") from error


async def _fetch_rest(session: aiohttp.ClientSession, cached: CachedFile, url: str, progress: Progress) -> None:
    have = cached.received()
    if have >= cached.model.size:
        return
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    async with session.get(url, headers=headers) as response:
        if response.status not in (WHOLE, PARTIAL):
            raise SourceError(f"it answered with HTTP {response.status}")
        if response.status == WHOLE or not _continues(response, have):
            if response.status == PARTIAL:
                raise SourceError("it answered with another range than was asked for")
            have = 0
        if response.content_length is not None and have + response.content_length != cached.model.size:
            raise SourceError(f"it offers {have + response.content_length:,} bytes instead of {cached.model.size:,}")
        await _append(response, cached, have, progress)


def _continues(response: aiohttp.ClientResponse, have: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {have}-")


async def _append(response: aiohttp.ClientResponse, cached: CachedFile, have: int, progress: Progress) -> None:
    with cached.partial.open("r+b" if have else "wb") as partial:
        partial.truncate(have)
        partial.seek(have)
        async for chunk in response.content.iter_chunked(CHUNK):
            have += len(chunk)
            if have > cached.model.size:
                raise SourceError("it sends more bytes than the file has")
            partial.write(chunk)
            progress(Step("downloading", have, cached.model.size))
    if have < cached.model.size:
        raise SourceError("the connection broke; what was fetched is kept")
