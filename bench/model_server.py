"""A scripted model that is not the bottleneck: an OpenAI-compatible endpoint that streams bytes made beforehand.

    python -m bench.model_server [--port N]

It prints its base URL and serves until SIGTERM. Several processes may share one port: the kernel
spreads the connections. What is said follows from the model's name, see `bench.scripts`. A request is parsed by
httptools and two regular expressions; a token costs a timer and a write.
"""

import argparse
import asyncio
import re
import signal
import socket
from contextlib import suppress
from functools import partial
from typing import cast

import httptools
import orjson
import uvloop

from bench.scripts import ALIASES, Script, UnknownScriptError, script, whole
from orchestrator.open_files import allow_many

BACKLOG = 4096
_MODEL = re.compile(rb'"model":\s*"([^"\\]+)"')
_STREAM = re.compile(rb'"stream":\s*true')
_ANSWER = re.compile(rb'"role":\s*"tool"')
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    b"x-request-id: req_bench\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_JSON = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nx-request-id: req_bench\r\nContent-Length: %d\r\n\r\n%s"
_MODELS = orjson.dumps({"object": "list", "data": [{"id": name, "object": "model"} for name in ALIASES]})
_REFUSED = b'{"error":{"message":"No such path, or no such script.","type":"invalid_request_error"}}'


class Server(asyncio.Protocol):
    """One connection. Requests on it come one after another."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._url = b""
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what is written to."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse; a client that speaks no HTTP is cut."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self._transport is not None:
                self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client hung up: say no more."""
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def on_url(self, url: bytes) -> None:
        """A request begins."""
        self._url = url
        self._body = []

    def on_body(self, body: bytes) -> None:
        """A part of the request's body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer what was asked."""
        body = b"".join(self._body)
        self._body = []
        named = _MODEL.search(body)
        if self._transport is None:
            return
        if self._url.endswith(b"/models"):
            self._transport.write(_JSON % (b"200 OK", len(_MODELS), _MODELS))
            return
        if named is None or not self._url.endswith(b"/chat/completions"):
            self._transport.write(_JSON % (b"404 Not Found", len(_REFUSED), _REFUSED))
            return
        try:
            self._answer(self._transport, named[1].decode(), body)
        except UnknownScriptError:
            self._transport.write(_JSON % (b"404 Not Found", len(_REFUSED), _REFUSED))

    def _answer(self, transport: asyncio.Transport, model: str, body: bytes) -> None:
        if not _STREAM.search(body):
            document = whole(model)
            transport.write(_JSON % (b"200 OK", len(document), document))
            return
        answered = len(_ANSWER.findall(body)) if "-tools-" in model else 0
        self._begin(transport, script(model, answered))

    def _begin(self, transport: asyncio.Transport, beats: Script) -> None:
        if len(beats) == 1 and not beats[0].at:
            transport.write(_HEAD + beats[0].data)
            return
        transport.write(_HEAD)
        self._wait(beats, 0, self._loop.time())

    def _wait(self, beats: Script, number: int, began: float) -> None:
        self._timer = self._loop.call_at(began + beats[number].at, self._say, beats, number, began)

    def _say(self, beats: Script, number: int, began: float) -> None:
        if self._transport is None:
            return
        self._transport.write(beats[number].data)
        if number + 1 < len(beats):
            self._wait(beats, number + 1, began)


async def serve(port: int) -> None:
    """Serve on loopback until SIGTERM or SIGINT; the base URL is printed once connections are accepted."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(BACKLOG)
    sock.setblocking(False)
    loop.add_reader(sock, _accept, loop, sock, set())
    over = asyncio.Event()
    for ending in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(ending, over.set)
    print(f"http://127.0.0.1:{sock.getsockname()[1]}/v1", flush=True)
    await over.wait()
    loop.remove_reader(sock)
    sock.close()


def _accept(loop: asyncio.AbstractEventLoop, sock: socket.socket, begun: "set[asyncio.Task[object]]") -> None:
    """Accept all who wait. The loop itself would accept one in each of its turns, which are long when many are heard:
    a thousand new connections would wait for seconds.
    """
    with suppress(BlockingIOError):
        while True:
            task = loop.create_task(loop.connect_accepted_socket(partial(Server, loop), sock.accept()[0]))
            begun.add(task)
            task.add_done_callback(begun.discard)


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description="A scripted, OpenAI-compatible model that is not the bottleneck.")
    parser.add_argument("--port", type=int, default=0)
    allow_many()
    uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
