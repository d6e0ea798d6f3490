"""The least that can carry tokens from Redis to clients: one subscriber, and a socket for each listener.

    python -m bench.limits_relay --redis URL        prints the base URL

Any POST is taken for a streamed run of the model that its body names, and is answered with what is published of it. No
authentication, no validation, no database. See `bench.limits_tokens`.
"""

import argparse
import asyncio
import itertools
import re
from typing import Any

import httptools
import uvloop

from bench import limits_redis

ASKED = "bench:asked"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"event: done\ndata: [DONE]\n\n"
_MODEL = re.compile(rb'"model":\s*"([^"\\]+)"')


class Relay:
    """Who listens to which channel."""

    def __init__(self, resp: limits_redis.Resp) -> None:
        self.ears: Any = None
        self._resp = resp
        self._listeners: dict[bytes, Any] = {}
        self._wanted: dict[bytes, bytes] = {}
        self._numbers = itertools.count()

    def listen(self, transport: Any, model: bytes) -> None:
        """Subscribe to a new run, and ask for it once that is done."""
        run_id = f"run_{next(self._numbers):024}"
        channel = f"run:{run_id}:events"
        self._listeners[channel.encode()] = transport
        self._wanted[channel.encode()] = b"%s %s" % (run_id.encode(), model)
        self.ears.subscribe(channel)

    def heard(self, kind: bytes, channel: bytes, data: bytes) -> None:
        """Pass on what was published."""
        if kind == b"subscribe":
            self._resp.send(limits_redis.pack(("PUBLISH", ASKED, self._wanted.pop(channel))), 1)
        elif kind == b"message" and (transport := self._listeners.get(channel)) is not None:
            transport.write(b"%x\r\n%s\r\n" % (len(data), data))
            if data.endswith(END):
                transport.write(b"0\r\n\r\n")
                del self._listeners[channel]
                self.ears.unsubscribe(channel.decode())


class Listener(asyncio.Protocol):
    """A client's connection."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._parser = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio's."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Asyncio's."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """The parser's."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """The parser's."""
        found = _MODEL.search(b"".join(self._body))
        self._body = []
        self._transport.write(HEAD)
        self._relay.listen(self._transport, found[1] if found else b"bench-ideal")


async def main(options: argparse.Namespace) -> None:
    """Serve until the process is ended."""
    relay = Relay(await limits_redis.connect(options.redis))
    relay.ears = await limits_redis.Ears.opened(options.redis, relay.heard)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Listener(relay), "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The limit: tokens from Redis to clients.")
    parser.add_argument("--redis", required=True)
    uvloop.run(main(parser.parse_args()))
