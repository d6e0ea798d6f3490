"""A bare streaming client of chat completions: httptools on a socket, keep-alive, nothing else. The limit, no proposal.

It knows no TLS, no proxy, no retry, no timeout of its own and no reply but a good one: `limits_direct` measures with it
what hearing a model must cost at least. One `BareModel` holds the free connections of one server.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httptools
import orjson

SILENCE = 120.0
"""Seconds after which a benchmark gives up on a model that says nothing."""


class _Connection(asyncio.Protocol):
    """One connection, and the one reply that is under way on it."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.waiter: asyncio.Future[None] | None = None
        self.begin()

    def begin(self) -> None:
        """Get ready for the next reply."""
        self.parser = httptools.HttpResponseParser(self)
        self.heard: list[bytes] = []
        self.done = self.keep = False
        self.error: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio's."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Asyncio's."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.connection_lost(error)
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio's."""
        if not self.done:
            self.error, self.done = exc or ConnectionResetError(), True
        self.transport = None
        self._wake()

    def on_body(self, body: bytes) -> None:
        """The parser's."""
        self.heard.append(body)

    def on_message_complete(self) -> None:
        """The parser's."""
        self.done, self.keep = True, self.parser.should_keep_alive()
        if self.parser.get_status_code() != 200:
            self.error = RuntimeError(f"The model server answered {self.parser.get_status_code()}.")

    async def more(self) -> bytes:
        """What has come in; nothing at the end."""
        while not self.heard and not self.done:  # what came may have been headers only
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter
        if self.error is not None:
            raise self.error
        data, self.heard = b"".join(self.heard), []
        return data

    def _wake(self) -> None:
        if (waiter := self.waiter) is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)


def _chunks(events: list[bytes]) -> list[Any]:
    """Parsed at one go."""
    texts = [event[6:] for event in events if event[:7] == b"data: {"]
    found: list[Any] = orjson.loads(b"[%s]" % b",".join(texts))
    return found


class BareModel:
    """Chat completions of one server, over connections that are kept."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        path = f"{parts.path.rstrip('/')}/chat/completions"
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer k\r\nAccept: text/event-stream\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self._free: list[_Connection] = []

    async def stream(self, body: bytes) -> AsyncIterator[list[Any]]:
        """The chunks of the reply, as many at a time as came in together."""
        connection = await self._connection()
        connection.begin()
        connection.transport.write(b"%s%d\r\n\r\n%s" % (self._head, len(body), body))
        rest = b""
        while data := await connection.more():
            *events, rest = (rest + data).split(b"\n\n")
            yield _chunks(events)
        if connection.keep and connection.transport is not None:
            self._free.append(connection)

    async def _connection(self) -> _Connection:
        while self._free:
            free = self._free.pop()
            if free.transport is not None and not free.transport.is_closing():
                return free
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self._host, self._port)
        return connection


class AiohttpModel:
    """The same over aiohttp: what the bare client saves."""

    def __init__(self, base_url: str) -> None:
        self._url = f"{base_url}/chat/completions"
        timeout = aiohttp.ClientTimeout(total=None, sock_read=SILENCE)
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)

    async def stream(self, body: bytes) -> AsyncIterator[list[Any]]:
        """The chunks of the reply, as many at a time as came in together."""
        rest = b""
        async with self._session.post(self._url, data=body, headers={"Content-Type": "application/json"}) as response:
            response.raise_for_status()
            async for data in response.content.iter_any():
                *events, rest = (rest + data).split(b"\n\n")
                yield _chunks(events)
