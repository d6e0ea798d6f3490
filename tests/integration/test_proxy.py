"""The proxy that chaos is made with does what it says."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.fakes.proxy import Proxy

DEADLINE = 30.0


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy in front of an echo."""
    echo = socket.create_server(("127.0.0.1", 0))
    ends: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while piece := connection.recv(65536):
                connection.sendall(piece)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = echo.accept()
                ends.append(connection)
                threading.Thread(target=serve, args=[connection]).start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    with Proxy.before(f"redis://:secret@127.0.0.1:{echo.getsockname()[1]}/0") as proxy:
        yield proxy
    echo.shutdown(socket.SHUT_RDWR)
    accepting.join(DEADLINE)
    echo.close()


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=DEADLINE)


def echoed(line: socket.socket, said: bytes) -> bytes:
    line.sendall(said)
    heard = b""
    while len(heard) < len(said):
        heard += line.recv(65536)
    return heard


def test_it_passes_bytes_both_ways_and_ends_with_either_side(proxy: Proxy) -> None:
    said = b"x" * 3_000_000
    with connect(proxy) as line:

        def send() -> None:
            line.sendall(said)
            line.shutdown(socket.SHUT_WR)

        sending = threading.Thread(target=send)
        sending.start()
        heard = 0
        while piece := line.recv(65536):
            heard += len(piece)
        sending.join(DEADLINE)

    assert heard == len(said)
    assert proxy.url == f"redis://:secret@127.0.0.1:{proxy.port}/0"


def test_refused_connections_are_reset_and_the_port_stays_its_own(proxy: Proxy) -> None:
    with connect(proxy) as line:
        assert echoed(line, b"one") == b"one"
        proxy.set_mode("refuse")

        with pytest.raises(ConnectionResetError):
            line.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.set_mode("pass")
    with connect(proxy) as line:
        assert echoed(line, b"two") == b"two"


def test_what_is_cut_is_reset_once_or_for_as_long_as_wanted(proxy: Proxy) -> None:
    with connect(proxy) as line:
        assert echoed(line, b"one") == b"one"
        assert proxy.cut() == 1
        with pytest.raises(ConnectionResetError):
            line.recv(1)
    with connect(proxy) as line:
        assert echoed(line, b"two") == b"two"
    proxy.set_mode("cut")
    with pytest.raises(ConnectionResetError), connect(proxy) as line:
        line.recv(1)


def test_a_black_hole_keeps_connections_and_gives_back_what_it_swallowed(proxy: Proxy) -> None:
    with connect(proxy) as before:
        assert echoed(before, b"one") == b"one"
        proxy.set_mode("blackhole")
        with connect(proxy) as meanwhile:
            for line in (before, meanwhile):
                line.sendall(b"two")
                line.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    line.recv(1)
                line.settimeout(DEADLINE)

            proxy.set_mode("pass")

            assert [before.recv(3), meanwhile.recv(3)] == [b"two", b"two"]


def test_a_delay_is_paid_once_for_each_round_trip(proxy: Proxy) -> None:
    proxy.set_mode("delay", seconds=0.2)
    with connect(proxy) as line:
        begun = time.monotonic()
        line.sendall(b"a")
        line.sendall(b"b" * 100)
        heard = b""
        while len(heard) < 101:
            heard += line.recv(65536)
        assert time.monotonic() - begun >= 0.2
        assert heard == b"a" + b"b" * 100
