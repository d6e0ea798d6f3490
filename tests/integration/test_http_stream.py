"""The lean HTTP client against servers that are written out byte by byte."""

import asyncio
import contextlib
import datetime
import errno
import gc
import gzip
import ipaddress
import math
import socket
import ssl
import time
import weakref
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from orchestrator import http_connection, http_gathering, http_stream
from orchestrator.http_connection import BrokenError, Connection, SilenceError
from orchestrator.http_stream import Answer, Inflater, Server, Target

DEADLINE = 60.0
OK = b"HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\nX-Request-Id: req_1\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
WHOLE = CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"
Say = Callable[[asyncio.StreamWriter, int], Awaitable[None]]


class Script:
    """A server that answers each request with the next of `answers`: bytes, or somebody who writes them."""

    def __init__(self, *answers: bytes | Say) -> None:
        self.answers = list(answers)
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.port = 0
        self.tasks: list[asyncio.Task[None]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)
        self.connections += 1
        number = self.connections
        with (
            contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError),
            contextlib.closing(writer),
        ):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.heads.append(head)
                length = head.partition("Content-Length: ")[2].partition("\r\n")[0]
                self.bodies.append(await reader.readexactly(int(length or 0)))
                answer = self.answers.pop(0)
                if isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                    if b"chunked" not in answer and b"Content-Length" not in answer:
                        break
                else:
                    await answer(writer, number)

    @contextlib.asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
        """The server, and a client of it."""
        async with await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=tls) as listening:
            self.port = listening.sockets[0].getsockname()[1]
            target = Target.of(f"http{'s' if tls else ''}://127.0.0.1:{self.port}/v1", [])
            assert target is not None
            server = Server(target, {"User-Agent": "test"}, connect_timeout=DEADLINE)
            try:
                async with asyncio.timeout(DEADLINE):
                    yield server
            finally:
                server.close()
                for task in self.tasks:
                    task.cancel()
                await asyncio.gather(*self.tasks, return_exceptions=True)


async def ask(server: Server, silence: float = DEADLINE) -> Answer:
    return await server.post("/ask", b'{"a":1}', {"Accept": "text/event-stream"}, silence)


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not done():  # noqa: ASYNC110  # nobody in there tells
            await asyncio.sleep(0.005)


def into(taken: list[bytes]) -> Callable[[bytes], bool]:
    """Takes all that is offered."""

    def take(data: bytes) -> bool:
        taken.append(data)
        return True

    return take


class Taken:
    """What was offered, and whoever it was offered to."""

    def take(self, _: bytes) -> bool:
        """Take it."""
        return True


async def everything(answer: Answer) -> bytes:
    """The body to its end; the connection is given back."""
    try:
        body = b""
        while data := await answer.read():
            body += data
        return body
    finally:
        answer.close()


async def test_a_request_is_one_whole_and_an_answer_is_read_as_it_comes() -> None:
    more = asyncio.Event()

    async def in_parts(writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(CHUNKED + b"3\r\nhel\r\n")
        await more.wait()
        writer.write(b"2\r\nlo\r\n0\r\nX-Trailer: dropped\r\n\r\n")

    script = Script(in_parts)
    async with script.running() as server:
        answer = await ask(server)
        first = await answer.read()
        more.set()
        rest = await everything(answer)

    assert (answer.status, answer.content_type, answer.headers["x-request-id"]) == (200, "text/event-stream", "req_1")
    assert "x-trailer" not in answer.headers
    assert (first, rest) == (b"hel", b"lo")
    assert script.heads[0].splitlines() == [
        "POST /v1/ask HTTP/1.1",
        f"Host: 127.0.0.1:{script.port}",
        "User-Agent: test",
        "Content-Type: application/json",
        "Accept: text/event-stream",
        "Content-Length: 7",
        "",
    ]
    assert script.bodies == [b'{"a":1}']


async def test_what_is_offered_first_and_taken_wakes_nobody() -> None:
    heard = asyncio.Event()
    offered: list[bytes] = []

    async def in_parts(writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(CHUNKED + b"3\r\none\r\n")
        await heard.wait()
        writer.write(b"3\r\ntwo\r\n")

    def take(data: bytes) -> bool:
        offered.append(data)
        heard.set()
        return data == b"one"

    async with Script(in_parts).running() as server:
        answer = await ask(server)

        assert await answer.read(offer=take) == b"two"
        assert offered == [b"one", b"two"]
        answer.close()


async def test_answers_of_many_small_pieces_are_whole_while_many_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_gathering, "MANY", 8)
    words = [b"%02d" % number for number in range(50)]

    async def often(writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(CHUNKED)
        for word in words:
            writer.write(b"2\r\n%b\r\n" % word)
            await asyncio.sleep(0.001)
        writer.write(b"0\r\n\r\n")

    async def heard(server: Server) -> bytes:
        answer = await ask(server)
        taken: list[bytes] = []
        try:
            while data := await answer.read(offer=into(taken)):
                taken.append(data)
        finally:
            answer.close()
        return b"".join(taken)

    async with Script(*[often] * 32).running() as server:
        for _ in range(2):  # the second time over kept connections
            assert await asyncio.gather(*[heard(server) for _ in range(16)]) == [b"".join(words)] * 16
        assert not server._busy


@pytest.mark.parametrize("end", ["cut", "silence", "left"])
async def test_an_answer_that_ends_early_while_nobody_looks_is_noticed(
    monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(http_gathering, "MANY", 0)

    async def early(writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(CHUNKED + b"3\r\none\r\n3\r\ntwo\r\n")
        if end == "cut":
            await writer.drain()
            writer.close()
        else:
            await asyncio.Event().wait()

    async with Script(early).running() as server:
        answer = await ask(server, 0.1 if end == "silence" else DEADLINE)
        taken: list[bytes] = []
        reading = asyncio.ensure_future(answer.read(offer=into(taken)))
        await until(lambda: taken == [b"one", b"two"])
        if end == "left":
            reading.cancel()
        with pytest.raises({"cut": BrokenError, "silence": SilenceError, "left": asyncio.CancelledError}[end]):
            await reading
        answer.close()

        await until(lambda: not server._busy)
        assert not server._free


async def test_the_end_of_an_answer_is_told_although_what_came_before_was_taken() -> None:
    async with Script(CHUNKED + b"3\r\none\r\n").running() as server:
        answer = await ask(server)
        taken: list[bytes] = []

        reading = asyncio.ensure_future(answer.read(offer=into(taken)))
        await until(lambda: bool(taken))
        server.close()

        with pytest.raises(BrokenError):
            await reading
        assert taken == [b"one"]
        answer.close()


async def test_what_goes_wrong_with_whom_it_is_offered_is_raised_where_it_is_read() -> None:
    def fail(_: bytes) -> bool:
        raise ZeroDivisionError

    async with Script(CHUNKED + b"3\r\none\r\n").running() as server:
        answer = await ask(server)

        with pytest.raises(ZeroDivisionError):
            await answer.read(offer=fail)
        answer.close()


async def test_nothing_is_offered_once_nobody_waits() -> None:
    left = asyncio.Event()

    async def late(writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(CHUNKED)
        await left.wait()
        writer.write(b"3\r\none\r\n0\r\n\r\n")

    async with Script(late).running() as server:
        answer = await ask(server)
        taken: list[bytes] = []
        reading = asyncio.ensure_future(answer.read(offer=into(taken)))
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        left.set()

        assert await everything(answer) == b"one"
        assert taken == []


async def test_something_is_got_without_a_body_over_a_connection_that_is_kept() -> None:
    script = Script(WHOLE, WHOLE)
    async with script.running() as server:
        assert await everything(await ask(server)) == b"hello"
        assert await everything(await server.get("/list", DEADLINE)) == b"hello"

    assert script.heads[1].startswith("GET /v1/list HTTP/1.1\r\nHost: 127.0.0.1:")
    assert "content-" not in script.heads[1].lower()
    assert script.connections == 1


async def test_a_connection_that_is_kept_holds_nothing_of_whom_its_answer_was_for() -> None:
    async with Script(WHOLE).running() as server:
        answer, taken = await ask(server), Taken()
        held = weakref.ref(taken)
        while await answer.read(offer=taken.take):
            pass
        answer.close()

        del taken
        assert held() is None
        assert server._free


async def test_a_connection_that_is_cut_leaves_nothing_behind_that_only_the_collector_would_find(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_stream, "MOST_FREE", 0)
    async with Script(WHOLE).running() as server:
        gc.collect()
        gc.disable()
        try:
            answer, taken = await ask(server), Taken()
            held = weakref.ref(taken)
            while await answer.read(offer=taken.take):
                pass
            answer.close()
            del taken
            assert held() is None
            del answer
            async with asyncio.timeout(DEADLINE):
                while any(isinstance(one, Connection) for one in gc.get_objects()):  # noqa: ASYNC110  # the loop's doing
                    await asyncio.sleep(0)
        finally:
            gc.enable()


async def test_a_compressed_body_is_offered_as_it_was_meant() -> None:
    body = gzip.compress(b"hello")
    head = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with Script(head + body).running() as server:
        answer = await ask(server)
        taken: list[bytes] = []

        assert await answer.read(offer=into(taken)) == b""
        assert b"".join(taken) == b"hello"
        answer.close()


async def test_a_connection_serves_one_request_after_another() -> None:
    script = Script(WHOLE, OK + b"Content-Length: 3\r\n\r\nabc", OK + b"Content-Length: 0\r\n\r\n", WHOLE)
    async with script.running() as server:
        bodies = [await everything(await ask(server)) for _ in range(4)]

    assert bodies == [b"hello", b"abc", b"", b"hello"]
    assert script.connections == 1


@pytest.mark.parametrize(
    "first",
    [
        OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        WHOLE + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        WHOLE + b"garbage",
    ],
)
async def test_a_connection_that_cannot_be_trusted_or_used_again_is_not(first: bytes) -> None:
    script = Script(first, WHOLE)
    async with script.running() as server:
        bodies = [await everything(await ask(server)) for _ in range(2)]

    assert bodies == [b"hello", b"hello"]
    assert script.connections == 2


async def test_a_free_connection_that_the_server_has_closed_is_not_used() -> None:
    script = Script(WHOLE, WHOLE)
    written: list[asyncio.StreamWriter] = []

    async def kept(writer: asyncio.StreamWriter, _: int) -> None:
        written.append(writer)
        writer.write(WHOLE)

    script.answers[0] = kept
    async with script.running() as server:
        await everything(await ask(server))
        written[0].close()
        await until(lambda: not server._free)
        body = await everything(await ask(server))

    assert body == b"hello"
    assert script.connections == 2


async def test_a_free_connection_on_which_something_comes_is_not_used() -> None:
    written: list[asyncio.StreamWriter] = []

    async def kept(writer: asyncio.StreamWriter, _: int) -> None:
        written.append(writer)
        writer.write(WHOLE)

    script = Script(kept, WHOLE)
    async with script.running() as server:
        await everything(await ask(server))
        written[0].write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        await until(lambda: not server._free)
        body = await everything(await ask(server))

    assert body == b"hello"
    assert script.connections == 2


async def test_a_request_on_a_connection_that_breaks_is_not_sent_again() -> None:
    async def breaking(writer: asyncio.StreamWriter, _: int) -> None:
        writer.transport.abort()

    script = Script(WHOLE, breaking, WHOLE)
    async with script.running() as server:
        await everything(await ask(server))
        with pytest.raises(BrokenError):
            await ask(server)

    assert len(script.heads) == 2


@pytest.mark.parametrize("ending", [b"\r\n", b"\n"])
async def test_interim_answers_are_passed_over_whatever_ends_their_lines(ending: bytes) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    heads = (interim + CHUNKED).replace(b"\r\n", ending)
    script = Script(heads + WHOLE.removeprefix(CHUNKED), WHOLE)
    async with script.running() as server:
        answer = await ask(server)
        bodies = [await everything(answer), await everything(await ask(server))]

    assert "link" not in answer.headers
    assert bodies == [b"hello", b"hello"]


async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    script = Script(OK + b"\r\nhello", b"HTTP/1.0 200 OK\r\n\r\nold")
    async with script.running() as server:
        bodies = [await everything(await ask(server)) for _ in range(2)]

    assert bodies == [b"hello", b"old"]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        b"what?\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 10_000,
        OK + b"X: " + b"x" * 200_000,
        OK + b"Content-Encoding: br\r\n\r\nx",
    ],
)
async def test_what_is_no_answer_is_broken(answer: bytes) -> None:
    async def write(writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(answer)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    async with Script(write).running() as server:
        with pytest.raises(BrokenError):
            await ask(server)


@pytest.mark.parametrize(
    "body",
    [
        OK + b"Content-Length: 10\r\n\r\nhello",
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"5\r\nhello\r\nno length\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\nX: " + b"x" * 200_000,
    ],
)
async def test_an_answer_that_is_cut_off_gives_what_came_and_then_breaks(body: bytes) -> None:
    async def write(writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(body)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    async with Script(write, write).running() as server:
        answer = await ask(server)
        came = await answer.read()
        with pytest.raises(BrokenError):
            await answer.read()
        answer.close()
        forgiven = await ask(server)
        await forgiven.read()
        end = await forgiven.read(within=DEADLINE)
        forgiven.close()

    assert (came, end) == (b"hello", b"")


async def hush(writer: asyncio.StreamWriter, _: int) -> None:
    """The beginning of an answer, and nothing more."""
    writer.write(CHUNKED + b"5\r\nhello\r\n")
    await asyncio.Event().wait()


async def dumb(_: asyncio.StreamWriter, __: int) -> None:
    """Nothing at all."""
    await asyncio.Event().wait()


async def test_silence_has_an_end() -> None:
    async with Script(dumb, hush, hush).running() as server:
        with pytest.raises(SilenceError):
            await ask(server, 0.05)
        answer = await ask(server)
        assert await answer.read() == b"hello"
        assert answer._connection is not None
        answer._connection.expect(0.05)
        with pytest.raises(SilenceError):
            await answer.read()
        answer.close()
        forgiven = await ask(server)
        assert await forgiven.read() == b"hello"
        assert await forgiven.read(within=0.05) == b""
        forgiven.close()


@pytest.mark.parametrize("stops", ["cancelled", "closed"])
async def test_leaving_an_answer_cuts_its_connection_at_once(stops: str) -> None:
    script = Script(hush)
    async with script.running() as server:
        answer = await ask(server)
        await answer.read()
        if stops == "cancelled":
            reading = asyncio.create_task(everything(answer))
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
        else:
            answer.close()
        answer.close()
        with pytest.raises(BrokenError):
            await answer.read()
        await until(lambda: not server._busy)

    assert not server._free


async def test_cancelling_a_request_cuts_its_connection() -> None:
    script = Script(dumb)
    async with script.running() as server:
        asking = asyncio.create_task(ask(server))
        await until(lambda: bool(script.heads))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

        assert not server._busy


async def test_reading_pauses_while_nobody_takes_what_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "HIGH_WATER", 64 * 1024)
    size = 8 * 1024 * 1024
    written = 0

    async def flood(writer: asyncio.StreamWriter, _: int) -> None:
        nonlocal written
        writer.write(OK + b"Content-Length: %d\r\n\r\n" % size)
        for _ in range(8):
            writer.write(bytes(1024 * 1024))
            await writer.drain()
            written += 1024 * 1024

    async with Script(flood).running() as server:
        answer = await ask(server)
        connection = answer._connection
        assert connection is not None
        await until(lambda: connection._paused)
        waiting = connection._unread
        body = await everything(answer)

    assert waiting < 4 * 1024 * 1024
    assert len(body) == size == written


async def test_an_answer_whose_end_is_not_needed_gives_its_connection_back_when_it_comes() -> None:
    more = asyncio.Event()

    async def in_parts(writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(CHUNKED + b"5\r\nhello\r\n")
        await more.wait()
        writer.write(b"3\r\nbye\r\n0\r\n\r\n")

    script = Script(in_parts, WHOLE, hush)
    async with script.running() as server:
        answer = await ask(server)
        await answer.read()
        await answer.reach_end()
        answer.close()
        assert server._busy
        more.set()
        await until(lambda: bool(server._free) or not server._busy)
        # On a machine that slept meanwhile the moment may have passed, and the connection was cut.
        used_again = bool(server._free)
        assert await everything(await ask(server)) == b"hello"
        assert script.connections == (1 if used_again else 2)

        answer = await ask(server)
        await answer.read()
        await answer.reach_end()
        answer.close()
        await until(lambda: not server._busy)
        assert not server._free


async def test_an_answer_that_goes_on_although_its_end_is_not_needed_is_cut() -> None:
    async def chatter(writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(CHUNKED)
        while True:
            writer.write(b"5\r\nhello\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with Script(chatter).running() as server:
        answer = await ask(server)
        await answer.read()
        await answer.reach_end()
        answer.close()
        await until(lambda: not server._busy)

        assert not server._free


@pytest.mark.parametrize("size", [11, 3_000_000])
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "bare deflate", "identity"])
async def test_a_body_that_was_compressed_unasked_is_read(encoding: str, size: int) -> None:
    plain = (b"hello world" * (size // 11 + 1))[:size]
    bare = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": gzip.compress(plain),
        "deflate": zlib.compress(plain),
        "bare deflate": bare.compress(plain) + bare.flush(),
        "identity": plain,
    }[encoding]
    head = OK + b"Content-Encoding: %s\r\n" % encoding.removeprefix("bare ").encode()
    async with Script(head + b"Content-Length: %d\r\n\r\n%b" % (len(packed), packed)).running() as server:
        body = await everything(await ask(server))

    assert body == plain


async def test_a_body_that_only_claims_to_be_compressed_is_broken() -> None:
    head = OK + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello"
    async with Script(head).running() as server:
        with pytest.raises(BrokenError):
            await everything(await ask(server))


def test_what_comes_behind_a_compressed_body_is_not_kept() -> None:
    inflater = Inflater.of("gzip")
    assert inflater is not None

    bodies = [inflater.feed(data) for data in (gzip.compress(b"hello"), b"more", b"and more")]

    assert bodies == [b"hello", b"", b""]
    assert inflater._stream is not None
    assert not inflater._stream.unused_data


def certificate(folder: Path, host: str) -> Path:
    """A certificate for `host` that has signed itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    today = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(today - datetime.timedelta(days=1))
    builder = builder.not_valid_after(today + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), False)
    pem = folder / f"{host}.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(secret + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return pem


@pytest.mark.parametrize(("host", "trusted"), [("127.0.0.1", True), ("127.0.0.2", True), ("127.0.0.1", False)])
async def test_a_server_with_tls_must_be_trusted_and_the_one_that_was_asked_for(
    host: str, trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificate(tmp_path, host)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    script = Script(WHOLE)
    async with script.running(context) as server:
        if host == "127.0.0.1" and trusted:
            assert await everything(await ask(server)) == b"hello"
            return
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(server)

    assert script.heads == []


def test_an_answer_over_tls_is_whole_although_its_server_leaves_without_a_farewell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of our loop: asyncio's own reads on."""
    pem = certificate(tmp_path, "127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    monkeypatch.setattr(http_gathering, "MANY", 0)
    words = [b"%02d" % number for number in range(10)]

    def serve(listening: socket.socket) -> None:
        for _ in range(5):
            accepted, _ = listening.accept()
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with context.wrap_socket(accepted, server_side=True) as speaking:
                while not speaking.recv(65536).endswith(b'{"a":1}'):
                    pass
                speaking.sendall(OK + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
                for word in words:
                    speaking.sendall(b"2\r\n%b\r\n" % word)
                    time.sleep(0.003)  # a quick model
                speaking.sendall(b"0\r\n\r\n")

    async def heard(port: int) -> list[bytes]:
        target = Target.of(f"https://127.0.0.1:{port}/v1", [])
        assert target is not None
        server, answers = Server(target, {}, connect_timeout=DEADLINE), []
        async with asyncio.timeout(DEADLINE):
            for _ in range(5):
                answer, taken = await ask(server), list[bytes]()
                while data := await answer.read(offer=into(taken)):
                    taken.append(data)
                answer.close()
                answers.append(b"".join(taken))
        server.close()
        return answers

    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as thread:
        listening.settimeout(DEADLINE)
        serving = thread.submit(serve, listening)
        answers = uvloop.run(heard(listening.getsockname()[1]))
        serving.result(DEADLINE)

    assert answers == [b"".join(words)] * 5


async def test_nobody_at_the_address_is_an_error_in_time(unused_tcp_port: int) -> None:
    target = Target.of(f"http://127.0.0.1:{unused_tcp_port}", [])
    assert target is not None
    with pytest.raises(OSError, match=r"."):
        await ask(Server(target, {}, connect_timeout=DEADLINE))


@pytest.mark.parametrize("addresses", [1, 2])
async def test_a_connection_that_breaks_unseen_is_noticed_by_the_system_however_it_was_made(addresses: int) -> None:
    script = Script(WHOLE)
    async with script.running() as server:
        place = ("127.0.0.1", script.port)
        server._resolved = (math.inf, [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", place)] * addresses)
        answer = await ask(server)
        connection = answer._connection
        assert connection is not None
        with connection._transport.get_extra_info("socket").dup() as sock:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

        assert await everything(answer) == b"hello"


def test_an_address_with_a_scope_is_more_than_a_host_and_a_port() -> None:
    stream = socket.SOCK_STREAM, socket.IPPROTO_TCP, ""

    assert http_stream._plain((socket.AF_INET, *stream, ("127.0.0.1", 80))) == ("127.0.0.1", 80)
    assert http_stream._plain((socket.AF_INET6, *stream, ("::1", 80, 0, 0))) == ("::1", 80)
    assert http_stream._plain((socket.AF_INET6, *stream, ("fe80::1", 80, 0, 2))) is None


async def test_a_connection_of_which_the_system_will_not_keep_watch_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_: socket.socket) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    async with Script(WHOLE).running() as server:
        monkeypatch.setattr(socket.socket, "dup", none_left)

        assert await everything(await ask(server)) == b"hello"


async def test_more_free_connections_than_allowed_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_stream, "MOST_FREE", 2)
    script = Script(*[WHOLE] * 6)
    async with script.running() as server:
        answers = [await ask(server) for _ in range(4)]
        for answer in answers:
            assert await everything(answer) == b"hello"
        assert len(server._free) == 2
        monkeypatch.setattr(http_stream, "KEPT", 0.0)
        server._sweep()
        assert not server._free


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("http://localhost:8000/v1", ("localhost", 8000, "localhost:8000", "/v1", False)),
        ("https://api.example.com/v1", ("api.example.com", 443, "api.example.com", "/v1", True)),
        ("https://api.example.com:443", ("api.example.com", 443, "api.example.com", "", True)),
        ("http://[::1]:80/a/b", ("::1", 80, "[::1]", "/a/b", False)),
        ("http://[::1]:8000/v1", ("::1", 8000, "[::1]:8000", "/v1", False)),
        ("", None),
        ("http://user:key@host/v1", None),
        ("http://host/v1?key=1", None),
        ("http://host/v1#x", None),
        ("http://host/../v1", None),
        ("http://host/v%31", None),
        ("http://höst/v1", None),
        ("http://host:port/v1", None),
        ("http://host./v1", None),
        ("ftp://host/v1", None),
    ],
)
def test_only_plain_addresses_are_taken(base: str, expected: tuple[str, int, str, str, bool] | None) -> None:
    assert Target.of(base, ["assistantd"]) == expected


@pytest.mark.parametrize("value", ["two\r\nlines", "ümläut", "tab\t", "\x7f"])
def test_odd_header_fields_are_not_taken(value: str) -> None:
    assert Target.of("http://host/v1", [value]) is None


async def test_a_header_field_of_two_lines_is_refused() -> None:
    async with Script().running() as server:
        with pytest.raises(ValueError, match="more than one line"):
            await server.post("/ask", b"", {"X": "a\r\nY: b"}, DEADLINE)
