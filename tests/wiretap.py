"""A listener on the line between clients of any kind and the API: bytes pass untouched, what was answered is kept.

    client ── TCP ──► Tap ── TCP ──► API          (tests/conftest.py checks after each test what was heard in it)

Whoever speaks is heard: every release of the official clients, curl, a fuzzer. Nothing is buffered or changed on the
way, and a connection that one side ends is ended on the other. What is heard is parsed beside the line: a parser that
gives up (on requests that are no HTTP, say) makes the tap deaf for that connection and no more.
"""

import asyncio
import contextlib
import json
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools

HEARD: deque["Exchange"] = deque()
"""What was answered on all lines since the last test looked."""
LARGEST = 64 * 1024 * 1024
"""Of what is longer only the length is kept."""
CHUNK = 1 << 16


@dataclass
class Exchange:
    """A request's head and its answer."""

    method: str
    target: str
    asked: dict[str, str]
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    length: int = 0
    whole: bool = False

    @property
    def is_file(self) -> bool:
        """Bytes that are nobody's business."""
        kind = self.headers.get("content-type", "")
        return not kind.startswith(("application/json", "text/event-stream"))

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    def __str__(self) -> str:
        return f"{self.method} {self.target} → {self.status}: {bytes(self.body[:2000])!r}"


@contextmanager
def on(base_url: str) -> Iterator[str]:
    """Another address of the same server, on whose line all answers are heard."""
    tap = Tap(base_url)
    try:
        yield tap.base_url
    finally:
        tap.close()


class Tap:
    """One line: a listening socket, and a thread with the loop that relays."""

    def __init__(self, base_url: str) -> None:
        address = urlsplit(base_url)
        self._upstream = (str(address.hostname), int(address.port or 80))
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self._socket.setblocking(False)
        self.base_url = f"http://127.0.0.1:{self._socket.getsockname()[1]}{address.path}"
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._serve()], daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End all connections and the thread."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)
        self._loop.close()
        self._socket.close()

    async def _serve(self) -> None:
        lines: set[asyncio.Task[None]] = set()
        accepting = asyncio.create_task(self._accept(lines))
        await self._over.wait()
        for task in (accepting, *lines):
            task.cancel()
        await asyncio.gather(accepting, *lines, return_exceptions=True)

    async def _accept(self, lines: set[asyncio.Task[None]]) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._socket)
            task = self._loop.create_task(self._relay(client))
            lines.add(task)
            task.add_done_callback(lines.discard)

    async def _relay(self, client: socket.socket) -> None:
        line = _Line()
        with client, socket.socket() as server, contextlib.suppress(OSError):
            for end in (client, server):
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                await self._loop.sock_connect(server, self._upstream)
                await self._until_one_ends(client, server, line)
            finally:
                line.end()

    async def _until_one_ends(self, client: socket.socket, server: socket.socket, line: "_Line") -> None:
        answering = self._loop.create_task(self._pump(server, client, line.hear_answer))
        asking = self._loop.create_task(self._pump(client, server, line.hear_request))
        try:
            await asyncio.wait({answering, asking}, return_when=asyncio.FIRST_COMPLETED)
            if asking.done() and not asking.result():  # a server that reads no more may still answer
                await answering
        finally:
            for pump in (answering, asking):
                pump.cancel()
            await asyncio.gather(answering, asking, return_exceptions=True)

    async def _pump(self, source: socket.socket, target: socket.socket, hear: Callable[[bytes], None]) -> bool:
        """Relay until an end is gone; tell whether it was the source."""
        while True:
            try:
                data = await self._loop.sock_recv(source, CHUNK)
            except OSError:
                return True
            if not data:
                return True
            hear(data)  # first: what a client has read is always heard already
            try:
                await self._loop.sock_sendall(target, data)
            except OSError:
                return False


class _Line:
    """One connection's exchanges, in order."""

    def __init__(self) -> None:
        self._asked: deque[Exchange] = deque()
        self._deaf = False
        self._requests = _Requests(self._asked).parser
        self._answers = _Answers(self._asked).parser

    def hear_request(self, data: bytes) -> None:
        """What the client sent."""
        self._hear(self._requests, data)

    def hear_answer(self, data: bytes) -> None:
        """What the server sent."""
        self._hear(self._answers, data)

    def end(self) -> None:
        """What has begun and not ended is kept as it is."""
        HEARD.extend(exchange for exchange in self._asked if exchange.status)
        self._asked.clear()

    def _hear(self, parser: Any, data: bytes) -> None:
        if self._deaf:
            return
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._deaf = True
        # The answer to HEAD has a length and no body, which this parser cannot be told.
        self._deaf = self._deaf or any(exchange.method == "HEAD" for exchange in self._asked)


class _Requests:
    """The parser of requests, and its callbacks."""

    def __init__(self, asked: deque[Exchange]) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self._asked = asked
        self._url = b""
        self._headers: dict[str, str] = {}

    def on_message_begin(self) -> None:
        self._url, self._headers = b"", {}

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        method = self.parser.get_method().decode("latin-1")
        self._asked.append(Exchange(method, self._url.decode("latin-1"), self._headers))


class _Answers:
    """The parser of answers, and its callbacks: each belongs to the oldest request without one."""

    def __init__(self, asked: deque[Exchange]) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self._asked = asked
        self._headers: dict[str, str] = {}

    def on_message_begin(self) -> None:
        self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._asked and (status := self.parser.get_status_code()) >= 200:
            self._asked[0].status, self._asked[0].headers = status, self._headers

    def on_body(self, data: bytes) -> None:
        if self._asked:
            exchange = self._asked[0]
            exchange.length += len(data)
            if exchange.length <= LARGEST and not exchange.is_file:
                exchange.body += data

    def on_message_complete(self) -> None:
        if self._asked and self._asked[0].status:
            exchange = self._asked.popleft()
            exchange.whole = True
            HEARD.append(exchange)
