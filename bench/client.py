"""HTTP/1.1 for load: connections that are kept, answers read by httptools, event streams watched and not parsed.

    client = Client("http://127.0.0.1:8300/v1", key)
    answer = await client.ask("POST", "/threads", b"{}")
    heard = await client.hear("/threads/runs", body, ASSISTANTS)
    await client.close()

A stream is not split into events: what counts a token and what ends it are bytes that are looked for, and of each read
that held a token the time is kept. So listening costs some microseconds a token and the other side is what is measured.
"""

import asyncio
import socket
import time
from dataclasses import dataclass, field
from typing import Final, NamedTuple, cast
from urllib.parse import urlsplit

import httptools
import orjson

PATIENCE: Final = 120.0
"""Seconds after which an answer or an end of a stream is given up."""


class Marks(NamedTuple):
    """What is looked for in a stream."""

    token: bytes
    end: bytes


ASSISTANTS: Final = Marks(b"event: thread.message.delta\n", b"event: thread.run.completed\n")
CHAT: Final = Marks(b'"delta":{"content":', b"data: [DONE]")


@dataclass(slots=True)
class Answer:
    """What came back: `first` and `total` are seconds since it was asked for, `reads` when tokens came."""

    status: int = 0
    total: float = 0.0
    first: float = 0.0
    tokens: int = 0
    ended: bool = False
    poll_after: float | None = None
    body: bytes = b""
    reads: list[float] = field(default_factory=list)

    @property
    def json(self) -> dict[str, object]:
        """The body as an object."""
        found: dict[str, object] = orjson.loads(self.body)
        return found


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._marks: Marks | None = None
        self._keep = True
        self._answer = Answer()
        self._parts: list[bytes] = []
        self._tail = b""
        self._began = 0.0
        self._over: asyncio.Future[None] | None = None

    async def request(self, data: bytes, marks: Marks | None = None, *, keep: bool = True) -> Answer:
        """Send it and read the answer to its end; the body is kept unless `keep` is false. Raises OSError."""
        if self.transport is None:
            raise ConnectionResetError("The connection was closed.")
        self._answer, self._parts, self._tail = Answer(), [], b""
        self._marks, self._keep = marks, keep
        self._over = asyncio.get_running_loop().create_future()
        self._began = time.perf_counter()
        self.transport.write(data)
        timer = asyncio.get_running_loop().call_later(PATIENCE, self._give_up)
        try:
            await self._over
        finally:
            timer.cancel()
        self._answer.body = b"".join(self._parts)
        return self._answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what is written to."""
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits learns it."""
        self.transport = None
        if self._over is not None and not self._over.done():
            self._over.set_exception(exc or ConnectionResetError("The connection was closed."))

    def data_received(self, data: bytes) -> None:
        """Parse."""
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Only one header is of interest."""
        if name.lower() == b"openai-poll-after-ms":
            self._answer.poll_after = int(value) / 1e3

    def on_headers_complete(self) -> None:
        """The answer begins."""
        self._answer.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """Look for the marks, also across the seam of two reads."""
        if self._marks is not None and self._answer.status == 200:
            self._look(self._marks, body)
        if self._keep or self._answer.status != 200:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """The answer is over."""
        self._answer.total = time.perf_counter() - self._began
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def _look(self, marks: Marks, body: bytes) -> None:
        answer = self._answer
        found = body.count(marks.token) + self._across(marks.token, body)
        if found:
            now = time.perf_counter() - self._began
            answer.reads.append(now)
            answer.tokens += found
            answer.first = answer.first or now
        answer.ended = answer.ended or marks.end in body or bool(self._across(marks.end, body))
        self._tail = body[-64:] if len(body) >= 64 else (self._tail + body)[-64:]

    def _across(self, mark: bytes, body: bytes) -> int:
        """1 if the mark lies across the seam: it cannot do so twice, for it does not overlap itself."""
        edge = len(mark) - 1
        return int(mark in self._tail[-edge:] + body[:edge]) if self._tail else 0

    def _give_up(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class Client:
    """As many kept connections as requests are under way at once."""

    def __init__(self, base_url: str, key: str = "sk-bench") -> None:
        parts = urlsplit(base_url)
        self.host, self.port, self._path = parts.hostname or "", parts.port or 80, parts.path
        lines = f" HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {key}\r\n"
        self._head = f"{lines}OpenAI-Beta: assistants=v2\r\nContent-Type: application/json\r\n"
        self._free: list[Connection] = []

    async def ask(self, method: str, path: str, body: bytes = b"") -> Answer:
        """One request and its whole answer, of any status."""
        return await self._one(self.raw(method, path, body), None, keep=True)

    async def hear(self, path: str, body: bytes, marks: Marks, *, keep: bool = False) -> Answer:
        """A POST that is answered with a stream; it is watched to its end."""
        return await self._one(self.raw("POST", path, body), marks, keep=keep)

    def raw(self, method: str, path: str, body: bytes = b"") -> bytes:
        """The bytes of a request."""
        return f"{method} {self._path}{path}{self._head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def connect(self, buffer: int | None = None) -> Connection:
        """A connection that is not the pool's; `buffer` bytes wait in the kernel at most until we read them."""
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, (self.host, self.port))
        _, connection = await loop.create_connection(Connection, sock=sock)
        return connection

    async def prepare(self, connections: int) -> None:
        """Connect beforehand, so that no figure holds the time of a handshake."""
        while len(self._free) < connections:
            self._free.append(await self.connect())

    async def close(self) -> None:
        """Hang up."""
        for connection in self._free:
            if connection.transport is not None:
                connection.transport.close()
        self._free.clear()
        await asyncio.sleep(0)

    async def _one(self, data: bytes, marks: Marks | None, *, keep: bool) -> Answer:
        connection = self._kept() or await self.connect()
        answer = await connection.request(data, marks, keep=keep)
        self._free.append(connection)
        return answer

    def _kept(self) -> Connection | None:
        while self._free:
            connection = self._free.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                return connection
        return None
