"""A file's bytes as a response: streamed, under a name that every client reads, and never as something to be shown."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from urllib.parse import quote

from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Message, Send

from orchestrator.errors import NoSuchFile
from orchestrator.storage import MissingBytesError
from orchestrator.tables import File


class Download(StreamingResponse):
    """`first` and what `rest` yields. A client that takes nothing for `silence` seconds is left."""

    def __init__(self, file: File, first: bytes, rest: AsyncGenerator[bytes, None], silence: float) -> None:
        self._silence = silence
        headers = {
            "Content-Length": str(file.bytes),
            "Content-Disposition": disposition(file.filename),
            "X-Content-Type-Options": "nosniff",
        }
        super().__init__(_pieces(first, rest), media_type="application/octet-stream", headers=headers)

    async def stream_response(self, send: Send) -> None:
        """As the parent does, each piece for a limited time."""

        async def patiently(message: Message) -> None:
            try:
                async with asyncio.timeout(self._silence):
                    await send(message)
            except TimeoutError:
                raise ClientDisconnect from None

        await super().stream_response(patiently)


async def download(file: File, pieces: AsyncGenerator[bytes, None], silence: float) -> Download:
    """The response, once the storage has begun to give. Raises NoSuchFile, StorageError."""
    try:
        first = await anext(pieces, b"")
    except MissingBytesError:  # it was deleted a moment ago
        raise NoSuchFile(file.id) from None
    return Download(file, first, pieces, silence)


def disposition(filename: str) -> str:
    """A header with the name in ASCII for old clients and, after RFC 5987, in full."""
    plain = "".join(char if char.isascii() and (char.isalnum() or char in " .-_()") else "_" for char in filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"


async def _pieces(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    async with aclosing(rest):
        if first:
            yield first
        async for piece in rest:
            yield piece
