"""A lean HTTP/1.1 client for one server whose answers are streamed: POSTs of whole bodies, GETs, kept connections.

    Server.post ──▶ a free Connection, or a new one ──▶ Answer.read … Answer.read ──▶ Answer.close

What a model says passes through here byte by byte, and aiohttp costs several times as much CPU (docs/adr/0016). What
this client is not made for (proxies, credentials in the address, large bodies) is `orchestrator.openai_http`'s to send
elsewhere; nothing here follows redirects, keeps cookies, or asks anything twice.

Errors name what happened and never what was sent.
"""

import asyncio
import re
import socket
import ssl
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import aiohappyeyeballs

from orchestrator.http_connection import BrokenError, Connection
from orchestrator.http_gathering import Gatherer

MOST_FREE: Final = 1_000
"""Connections that are kept although nobody needs them now."""
KEPT: Final = 30.0
"""Seconds for which they are kept."""
_MOST_INFLATED: Final = 1024 * 1024
_RESOLVED: Final = 60.0
_HOST: Final = re.compile(r"(?i)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*|\[[0-9a-f:.]+\]")
_PATH: Final = re.compile(r"[A-Za-z0-9._~/-]*")
_FIELD: Final = re.compile(r"[\x20-\x7e]*")


class Target(NamedTuple):
    """A server and what of its addresses all paths have in common."""

    host: str
    port: int
    authority: str
    prefix: str
    tls: bool

    @classmethod
    def of(cls, base: str, fields: Iterable[str]) -> "Target | None":
        """The target of plain addresses and header fields; None if this client is not made for them."""
        parts = urlsplit(base)
        try:
            port = parts.port
        except ValueError:
            return None
        named = parts.netloc if port is None else parts.netloc.removesuffix(f":{port}")
        plain = _HOST.fullmatch(named) and _PATH.fullmatch(parts.path) and all(map(_FIELD.fullmatch, fields))
        if not plain or "/." in parts.path or parts.query or parts.fragment or parts.scheme not in ("http", "https"):
            return None
        tls = parts.scheme == "https"
        usual = 443 if tls else 80
        authority = named if port in (None, usual) else f"{named}:{port}"
        return cls(named.strip("[]"), port or usual, authority, parts.path, tls)


class Server:
    """The connections of one process and loop to one server. Any number of requests may run at once."""

    def __init__(self, target: Target, fields: Mapping[str, str], *, connect_timeout: float) -> None:
        self._target = target
        self._timeout = connect_timeout
        self._tls = _tls() if target.tls else None
        self._common = "".join(f"{name}: {value}\r\n" for name, value in {"Host": target.authority, **fields}.items())
        self._heads: dict[str, bytes] = {}
        self._free: dict[Connection, float] = {}  # the one that was used last is used next
        self._busy: set[Connection] = set()
        self._made = partial(Connection, Gatherer(self._busy))
        self._resolved: tuple[float, Sequence[aiohappyeyeballs.AddrInfoType]] = (0.0, [])
        self._resolving = asyncio.Lock()
        self._sweeper: asyncio.TimerHandle | None = None

    async def post(self, path: str, body: bytes, fields: Mapping[str, str], silence: float) -> "Answer":
        """The answer to a POST once its head is here. Raises OSError (TimeoutError is one).

        A request whose connection breaks is not sent again, whatever became of it: it may be paid for.
        """
        return await self._ask(self._head(path, fields) + b"%d\r\n\r\n" % len(body) + body, silence)

    async def get(self, path: str, silence: float) -> "Answer":
        """The answer to a GET once its head is here. Raises OSError (TimeoutError is one)."""
        line = f"GET {self._target.prefix}{path} HTTP/1.1\r\n"
        return await self._ask(f"{line}{self._common}\r\n".encode(), silence)

    async def _ask(self, request: bytes, silence: float) -> "Answer":
        connection = self._take() or await self._connect()
        self._busy.add(connection)
        try:
            connection.ask(request, silence)
            await connection.head()
            return Answer(self, connection)
        except BaseException:
            self._release(connection)
            raise

    def release(self, connection: Connection, *, linger: bool) -> None:
        """Keep a connection whose answer is over; cut it otherwise, with `linger` unless its end comes very soon."""
        if linger and connection.lingers(self._release):
            return
        self._release(connection)

    def _release(self, connection: Connection) -> None:
        self._busy.discard(connection)
        if not connection.reusable or len(self._free) >= MOST_FREE:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.rest(self._free)
        self._free[connection] = loop.time()
        if self._sweeper is None:
            self._sweeper = loop.call_later(KEPT, self._sweep)

    def close(self) -> None:
        """Cut all connections; requests under way fail."""
        for connection in (*self._free, *self._busy):
            connection.abort()
        self._free.clear()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def _head(self, path: str, fields: Mapping[str, str]) -> bytes:
        known = self._heads.get(path)
        if known is None:
            line = f"POST {self._target.prefix}{path} HTTP/1.1\r\n"
            known = self._heads[path] = f"{line}{self._common}Content-Type: application/json\r\n".encode()
        own = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
        if own.count("\r") != len(fields) or own.count("\n") != len(fields):
            raise ValueError("a header field has more than one line")
        return b"%b%bContent-Length: " % (known, own.encode())

    def _take(self) -> Connection | None:
        """A free connection that the server has not closed, as far as is known here."""
        if not self._free:
            return None
        oldest = asyncio.get_running_loop().time() - KEPT
        while self._free:
            connection, since = self._free.popitem()
            if since > oldest and connection.reusable:
                return connection
            connection.abort()
        return None

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        oldest = loop.time() - KEPT
        for connection in [kept for kept, since in self._free.items() if since <= oldest]:
            del self._free[connection]
            connection.abort()
        self._sweeper = loop.call_later(KEPT, self._sweep) if self._free else None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        name = self._target.host if self._tls else None
        async with asyncio.timeout(self._timeout):
            addresses = await self._addresses(loop)
            try:
                if len(addresses) == 1 and (place := _plain(addresses[0])) is not None:  # no race: the loop does it all
                    made = await loop.create_connection(self._made, *place, ssl=self._tls, server_hostname=name)
                else:
                    sock = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=0.25, interleave=1)
                    made = await loop.create_connection(self._made, sock=sock, ssl=self._tls, server_hostname=name)
            except BaseException:
                self._resolved = (0.0, [])
                raise
        transport, connection = made
        with suppress(OSError), transport.get_extra_info("socket").dup() as sock:  # silence has an end without it, too
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connection

    async def _addresses(self, loop: asyncio.AbstractEventLoop) -> Sequence[aiohappyeyeballs.AddrInfoType]:
        until, found = self._resolved
        if loop.time() >= until:
            async with self._resolving:
                until, found = self._resolved
                if loop.time() >= until:
                    found = await loop.getaddrinfo(self._target.host, self._target.port, type=socket.SOCK_STREAM)
                    until = loop.time() + _RESOLVED
        self._resolved = (until, [*found[1:], found[0]])  # a name of several machines means one after the other
        return found


class Answer:
    """An answer whose head is here. Close it: its connection is free for the next request, or cut."""

    __slots__ = ("_connection", "_inflater", "_linger", "_server", "content_type", "headers", "status")

    def __init__(self, server: Server, connection: Connection) -> None:
        self._server = server
        self._connection: Connection | None = connection
        self._linger = False
        self.status = connection.status
        self.headers = connection.fields
        """By lower-case names."""
        kind = self.headers.get("content-type", "application/octet-stream")
        self.content_type = kind.partition(";")[0].strip().lower()
        encoding = self.headers.get("content-encoding")
        self._inflater = None if encoding is None else Inflater.of(encoding)

    def read(self, within: float | None = None, offer: Callable[[bytes], bool] | None = None) -> Awaitable[bytes]:
        """What has come of the body since, or comes next; nothing at its end. Raises OSError, and what `offer` raises:
        that is given first what comes, and what it takes wakes nobody.

        `within` is for an answer of which nothing that matters is missing: silence for so many seconds is its end then,
        and so is a connection that breaks.
        """
        if self._connection is None:
            raise BrokenError("closed")
        if self._inflater is None:
            return self._connection.read(within, offer)
        return self._inflated(self._connection, self._inflater, within, offer)

    async def _inflated(
        self,
        connection: Connection,
        inflater: "Inflater",
        within: float | None,
        offer: Callable[[bytes], bool] | None,
    ) -> bytes:
        while True:
            data = inflater.more()
            while not data and (read := await connection.read(within)):
                data = inflater.feed(read)
            if not data or offer is None or not offer(data):
                return data

    async def reach_end(self) -> None:
        """Nothing more is wanted: on closing, the connection gets a moment to come to the answer's end by itself."""
        self._linger = True

    def close(self) -> None:
        """Be done with it, read to its end or not."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            self._server.release(connection, linger=self._linger)


class Inflater:
    """Reads a body that was compressed although nobody had asked for that."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._stream: zlib._Decompress | None = None

    @classmethod
    def of(cls, encoding: str) -> "Inflater | None":
        """For this content encoding; None if nothing is encoded. Raises BrokenError if it is not known."""
        encoding = encoding.strip().lower()
        if encoding in ("", "identity"):
            return None
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise BrokenError("unknown content encoding")
        return cls(encoding)

    def feed(self, data: bytes) -> bytes:
        """What `data` adds, or the first part of it. Raises BrokenError."""
        if self._stream is not None and self._stream.eof:
            return b""  # zlib would keep all that follows
        if self._stream is None:
            bare = self._encoding == "deflate" and data[0] & 0x0F != zlib.DEFLATED  # some leave out zlib's head
            self._stream = zlib.decompressobj(-zlib.MAX_WBITS if bare else zlib.MAX_WBITS + 32)
        try:
            return self._stream.decompress(self._stream.unconsumed_tail + data, _MOST_INFLATED)
        except zlib.error as error:
            raise BrokenError("malformed content encoding") from error

    def more(self) -> bytes:
        """The next part of what was given before."""
        return self.feed(b"") if self._stream is not None and self._stream.unconsumed_tail else b""


def _plain(address: aiohappyeyeballs.AddrInfoType) -> tuple[str, int] | None:
    """Host and port of an address that they name alone: one of IPv6 may have a scope."""
    host, port, *more = address[4]
    return None if any(more) else (str(host), int(port))


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
