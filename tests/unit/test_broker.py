"""What the client library says of a lost connection in words of its own."""

import pytest
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as ConnectionLost

from orchestrator.broker import _Honest


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed"),
        RuntimeError("read() called while another coroutine is already waiting for incoming data"),
        AttributeError("'NoneType' object has no attribute 'writelines'"),
    ],
)
async def test_a_lost_connection_is_called_so_whatever_the_library_trips_over(error: Exception) -> None:
    class Lost(AbstractConnection):
        def __init__(self) -> None: ...

        async def send_packed_command(self, *_: object, **__: object) -> None:
            raise error

        async def read_response(self, *_: object, **__: object) -> object:
            raise error

        async def _connect(self) -> None: ...

        def repr_pieces(self) -> list[tuple[str, object]]:
            return []

    connection = type("Connection", (_Honest, Lost), {})()

    with pytest.raises(ConnectionLost):
        await connection.send_packed_command(b"PING")
    with pytest.raises(ConnectionLost):
        await connection.read_response()
