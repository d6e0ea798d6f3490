"""A model server that has gone wild: bytes as no HTTP server would send them, silence, and answers without end.

    with WildServer() as server:           # an ephemeral port and a thread of its own; server.base_url ends in /v1
        …
        server.left("silence")             # how many clients have gone from such an answer before it was over

The last user message names the manner, `[silence]` for example, one of MANNERS; all others are answered with "Hello!".
"""

import asyncio
import gzip
import random
import re
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Self

import orjson

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
EMPTY = b'data: {"choices":[{"delta":{"content":""}}]}\n\n'
END = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
BEAT = 0.1
"""Seconds between the parts of an answer that comes slowly."""
BOMB = gzip.compress(b"data: " + bytes(64 * 1024 * 1024), 1)

Bytes = AsyncIterator[bytes]


def said(text: str) -> bytes:
    """A delta."""
    return b"data: " + orjson.dumps({"choices": [{"delta": {"content": text}}]}) + b"\n\n"


def costing(usage: bytes) -> bytes:
    """A whole answer with this usage."""
    return STREAM + said("ok") + b'data: {"choices":[],"usage":' + usage + b"}\n\n" + END


def once(answer: bytes) -> Callable[[], Bytes]:
    """These bytes and the end of the connection."""

    async def send() -> Bytes:
        yield answer

    return send


def then_silence(answer: bytes) -> Callable[[], Bytes]:
    """These bytes and nothing more."""

    async def send() -> Bytes:
        yield answer
        await asyncio.Event().wait()

    return send


def for_ever(head: bytes, part: bytes, beat: float = 0.0) -> Callable[[], Bytes]:
    """A head, and the same part again and again."""

    async def send() -> Bytes:
        yield head
        while True:
            yield part
            await asyncio.sleep(beat)

    return send


def slowly(head: bytes, rest: bytes) -> Callable[[], Bytes]:
    """A head, and then byte after byte."""

    async def send() -> Bytes:
        yield head
        for byte in rest:
            await asyncio.sleep(BEAT)
            yield bytes([byte])

    return send


MANNERS: dict[str, Callable[[], Bytes]] = {
    "silence": then_silence(b""),
    "silence after headers": then_silence(STREAM),
    "silence after half a document": then_silence(JSON + b'{"choices": [{"mess'),
    "silence after half an event": then_silence(STREAM + said("one two")[:-9]),
    "silence after two words": then_silence(STREAM + said("one ") + said("two")),
    "hanging up": once(b""),
    "half a status": once(b"HTTP/1.1 2"),
    "no http": once(b"SSH-2.0-OpenSSH_9.2\r\n" + random.Random(1).randbytes(500) + b"\r\n\r\n"),
    "endless header": for_ever(b"HTTP/1.1 200 OK\r\nX-Wild: ", b"a" * 65536),
    "broken chunks": once(STREAM.replace(b"Connection: close", b"Transfer-Encoding: chunked") + b"zz\r\nboo\r\n"),
    "binary": once(
        STREAM.replace(b"text/event-stream", b"application/octet-stream") + random.Random(2).randbytes(50000)
    ),
    "binary, called events": once(STREAM + random.Random(3).randbytes(50000)),
    "no chunk": once(STREAM + b'data: [1, 2, "three"]\n\n' + END),
    "a number": once(STREAM + b"data: 42\n\n" + END),
    "deep nesting": once(STREAM + b"data: " + b"[" * 100_000 + b"\n\n" + END),
    "endless line": for_ever(STREAM + b"data: ", b"a" * 65536),
    "endless document": for_ever(JSON + b'{"choices": "', b"a" * 65536),
    "a bomb": once(STREAM.replace(b"Connection", b"Content-Encoding: gzip\r\nConnection") + BOMB),
    "too large a token": once(STREAM + said("x" * 5_000_000) + END),
    "comments for ever": for_ever(STREAM, b": keep-alive\n\n", BEAT),
    "empty deltas for ever": for_ever(STREAM, EMPTY, BEAT / 10),
    "a word now and then": for_ever(STREAM, said("word "), 4 * BEAT),
    "byte after byte": slowly(STREAM, said("one") * 1000),
    "a large token": once(STREAM + said("x" * 1_000_000) + END),
    "bytes that are no utf-8": once(STREAM + said("caf!").replace(b"!", b"\xe9") + END),
    "negative usage": once(costing(b'{"prompt_tokens":-7,"completion_tokens":-1000000}')),
    "boundless usage": once(costing(b'{"prompt_tokens":1e300,"completion_tokens":123456789012345678901234567890}')),
    "infinite usage": once(costing(b'{"prompt_tokens":Infinity,"completion_tokens":NaN}')),
    "usage in words": once(costing(b'{"prompt_tokens":"many","completion_tokens":[]}')),
}
HELLO = STREAM + said("Hello!") + END
_NAMED = re.compile(r"\[([^\]]+)\]$")


class WildServer:
    """See the module."""

    def __init__(self) -> None:
        self.base_url = ""
        self.asked: Counter[str] = Counter()
        self._left: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wild", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(60)
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    def left(self, manner: str) -> int:
        """How many have gone before such an answer was over."""
        return self._left[manner]

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._answer, "127.0.0.1", 0, backlog=1024)

    async def _stop(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        manner = ""
        try:
            manner = await self._manner(reader)
            self.asked[manner] += 1
            sending = asyncio.create_task(self._send(writer, MANNERS.get(manner, once(HELLO))()))
            leaving = asyncio.create_task(reader.read())
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            over = sending.done() and sending.exception() is None
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
            self._left[manner] += not over
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    async def _manner(self, reader: asyncio.StreamReader) -> str:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        body = await reader.readexactly(int(length[1]) if length else 0)
        last = orjson.loads(body)["messages"][-1]["content"] if body else ""
        named = _NAMED.search(last)
        return named[1] if named else ""

    async def _send(self, writer: asyncio.StreamWriter, answer: Bytes) -> None:
        async for part in answer:
            writer.write(part)
            await writer.drain()
