"""A TCP proxy that misbehaves on demand: what tests put between the processes and Redis, Postgres or the model server.

    with Proxy.before(environment["REDIS_URL"]) as proxy:
        environment["REDIS_URL"] = proxy.url
        proxy.set_mode("blackhole")

Modes, which hold for the connections that there are and for those that come:

    pass        bytes go through, both ways
    refuse      connections are reset; new ones are refused, as by a host on which nothing listens
    cut         connections are reset; new ones are accepted, and reset
    blackhole   connections stay, new ones are accepted, no byte passes; what is on its way arrives later on
    delay       what clients send arrives so much later: each round trip takes so much longer

`cut()` resets the connections that there are, once, whatever the mode. The proxy lives in a thread of its own with an
event loop of its own; `set_mode` and `cut` may be called from any thread and have happened when they return. The port
stays ours while connections are refused.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

Result = TypeVar("Result")
Mode = Literal["pass", "refuse", "cut", "blackhole", "delay"]

PIECE = 65536
HELD = 64
"""Pieces of one direction that are on their way at once; the sender feels back-pressure beyond."""
PATIENCE = 60.0


class Proxy:
    """Passes connections on to `host:port`, or does not. Use it as a context manager, or `close` it."""

    def __init__(self, host: str, port: int) -> None:
        self.mode: Mode = "pass"
        self.accepted = 0
        self._target = (host, port)
        self._url = ""
        self._delay = 0.0
        self._links: set[asyncio.Future[None]] = set()
        self._server: asyncio.Server | None = None
        self._place = _bound(0)  # never listens: it keeps the port while nobody else does
        self.port: int = self._place.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.set_mode("pass")

    @classmethod
    def before(cls, url: str) -> Self:
        """A proxy in front of the server at `url`; its own `url` is the same but for host and port."""
        parts = urlsplit(url)
        if parts.hostname is None or parts.port is None:
            raise ValueError(f"no host and port in {parts.scheme} URL")
        proxy = cls(parts.hostname, parts.port)
        credentials, at, _ = parts.netloc.rpartition("@")
        proxy._url = urlunsplit(parts._replace(netloc=f"{credentials}{at}127.0.0.1:{proxy.port}"))
        return proxy

    @property
    def url(self) -> str:
        """The URL that the proxy was made with, as it leads through the proxy."""
        return self._url

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._links)

    def set_mode(self, mode: Mode, *, seconds: float = 0.0) -> None:
        """Behave so from now on. `seconds` is for "delay"."""
        self._do(self._set_mode(mode, seconds))

    def cut(self) -> int:
        """Reset every connection that there is; returns how many."""
        return self._do(self._cut())

    def close(self) -> None:
        """Reset what there is, listen no more, end the thread. Harmless when repeated."""
        if self._loop.is_closed():
            return
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()
        self._place.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- in the proxy's thread --

    async def _set_mode(self, mode: Mode, seconds: float) -> None:
        self.mode, self._delay = mode, seconds if mode == "delay" else 0.0
        if mode == "blackhole":
            self._open.clear()
        else:
            self._open.set()
        if mode in ("refuse", "cut"):
            await self._cut()
        if mode == "refuse" and self._server is not None:
            self._server.close()
            self._server = None
        elif mode != "refuse" and self._server is None:
            self._server = await asyncio.start_server(self._serve, sock=_bound(self.port), backlog=1024)

    async def _cut(self) -> int:
        links = tuple(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)
        return len(links)

    async def _end(self) -> None:
        await self._set_mode("refuse", 0.0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.mode in ("refuse", "cut"):
            return _reset([writer])
        link = asyncio.ensure_future(self._link(reader, writer))
        self._links.add(link)
        link.add_done_callback(self._links.discard)
        await asyncio.wait([link])
        if link.cancelled():  # before it began
            _reset([writer])
        return None

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until both sides have ended it, or one has broken it."""
        writers = [writer]
        try:
            await self._open.wait()
            there, back = await asyncio.open_connection(*self._target)
            writers.append(back)
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._carry(reader, back, ways, late=True))
                ways.create_task(self._carry(there, writer, ways, late=False))
        except* OSError:  # the target is away, or one side broke off: so does the other
            _reset(writers)
        except* asyncio.CancelledError:
            _reset(writers)
        finally:
            for each in writers:
                each.close()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ways: asyncio.TaskGroup, *, late: bool
    ) -> None:
        """Carry bytes one way, in order, each piece when it is due, until that side has ended."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(HELD)
        ways.create_task(self._send(pieces, writer))
        while True:
            piece = await reader.read(PIECE)
            await pieces.put((self._loop.time() + (self._delay if late else 0.0), piece))
            if not piece:
                return

    async def _send(self, pieces: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
        while True:
            due, piece = await pieces.get()
            if (wait := due - self._loop.time()) > 0:
                await asyncio.sleep(wait)
            await self._open.wait()
            if not piece:
                writer.write_eof()
                return
            writer.write(piece)
            await writer.drain()

    def _do(self, doing: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result(PATIENCE)


def _reset(writers: list[asyncio.StreamWriter]) -> None:
    """End connections with RST, as a host does that knows nothing of them."""
    for writer in writers:
        connection = writer.get_extra_info("socket")
        if connection is not None and connection.fileno() >= 0:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


def _bound(port: int) -> socket.socket:
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    place.bind(("127.0.0.1", port))
    return place
