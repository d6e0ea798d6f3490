"""A bare connection to Redis, and on it the leanest writer of runs' frames that there can be. The limit, no proposal.

The frames of a run travel as the product sends them (stream entry and message of the same bytes, in windows), but
nothing is kept for a Redis that goes away: what is lost is lost, and the benchmark fails.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import hiredis

WINDOW = 0.005
KEPT = b"20000"
LIFETIME = b"1500"


pack: Callable[[tuple[str | bytes, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]  # typed as one item


class Resp(asyncio.Protocol):
    """One connection: commands go out as bytes, replies are counted, and the first error is kept."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader(notEnoughData=Ellipsis)
        self._waiting: deque[asyncio.Future[Any] | None] = deque()
        self.transport: Any = None
        self.error: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio's."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Asyncio's."""
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not Ellipsis:
            waiter = self._waiting.popleft()
            if isinstance(reply, Exception):
                self.error = self.error or reply
            if waiter is not None and not waiter.done():
                waiter.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio's."""
        self.error = self.error or exc or ConnectionResetError()
        for waiter in self._waiting:
            if waiter is not None and not waiter.done():
                waiter.set_exception(self.error)

    def send(self, commands: bytes, count: int) -> None:
        """Send so many packed commands; their replies are looked at only for errors."""
        self._waiting.extend([None] * count)
        self.transport.write(commands)

    async def ask(self, *command: str | bytes) -> Any:
        """Send a command and return its reply."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self.transport.write(pack(command))
        reply = await waiter
        if isinstance(reply, Exception):
            raise reply
        return reply


async def connect(url: str) -> Resp:
    """A connection to the server at `url`."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    _, resp = await loop.create_connection(Resp, parts.hostname or "", parts.port or 6379)
    if parts.password:
        await resp.ask("AUTH", parts.password)
    return resp


class Ears(asyncio.Protocol):
    """A connection that only listens. `heard(kind, channel, data)` is told of every message, and of subscriptions."""

    def __init__(self, heard: Callable[[bytes, bytes, bytes], None]) -> None:
        self._reader = hiredis.Reader()
        self._heard = heard
        self.transport: Any = None

    @classmethod
    async def opened(cls, url: str, heard: Callable[[bytes, bytes, bytes], None]) -> "Ears":
        """Connect."""
        parts = urlsplit(url)
        loop = asyncio.get_running_loop()
        _, ears = await loop.create_connection(lambda: cls(heard), parts.hostname or "", parts.port or 6379)
        if parts.password:
            ears.transport.write(pack(("AUTH", parts.password)))
        return ears

    def subscribe(self, channel: str) -> None:
        """Listen to a channel."""
        self.transport.write(pack(("SUBSCRIBE", channel)))

    def unsubscribe(self, channel: str) -> None:
        """Listen to it no more."""
        self.transport.write(pack(("UNSUBSCRIBE", channel)))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio's."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Asyncio's."""
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if isinstance(reply, list):
                self._heard(*reply)


class Frames:
    """The frames of all runs of a process, sent together once a window. With `keep=False` they are published only."""

    def __init__(self, resp: Resp, *, keep: bool = True) -> None:
        self.resp = resp
        self._keep = keep
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, list[bytes]] = {}
        self._ids: dict[str, bytes] = {}
        self._lasting: set[str] = set()
        self._scheduled: asyncio.TimerHandle | None = None
        self._last = 0.0

    def put(self, run_id: str, frames: bytes, cursor: bytes, *, lasting: bool = False) -> None:
        """Send frames soon. `cursor` is that of the last of them; `lasting`: say anew how long the stream is kept."""
        known = self._waiting.get(run_id)
        if known is None:
            self._waiting[run_id] = [frames]
        else:
            known.append(frames)
        self._ids[run_id] = cursor
        if lasting:
            self._lasting.add(run_id)
        if self._scheduled is None:
            self._scheduled = self._loop.call_later(max(0.0, self._last + WINDOW - self._loop.time()), self._flush)

    async def sent(self) -> None:
        """Return when Redis has answered all that was sent. Raises what it refused."""
        if self._scheduled:
            self._scheduled.cancel()
            self._flush()
        await self.resp.ask("PING")
        if self.resp.error is not None:
            raise self.resp.error

    def _flush(self) -> None:
        waiting, self._waiting, self._scheduled, self._last = self._waiting, {}, None, self._loop.time()
        commands: list[bytes] = []
        for run_id, parts in waiting.items():
            key, data = f"run:{run_id}:events", b"".join(parts)
            if self._keep:
                commands.append(pack(("XADD", key, "MAXLEN", "~", KEPT, self._ids[run_id], "f", data)))
            commands.append(pack(("PUBLISH", key, data)))
            if run_id in self._lasting:
                commands.append(pack(("EXPIRE", key, LIFETIME)))
        self._lasting.clear()
        self._ids.clear()
        self.resp.send(b"".join(commands), len(commands))
