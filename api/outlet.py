"""The short way to a client's socket, for deltas: past the application's layers, which leave a body as it is.

A piece of a body passes eight coroutines before it is written, for each token and each client. What is heard while its
client waits for nothing else may be written by whoever hears it, as long as the connection takes it; otherwise it goes
the long way, which knows how to wait. Only our server offers this: under another one, or for a response that is not
sent in chunks, there is the long way only.
"""

import weakref
from typing import Final

from starlette.types import Scope
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

EXTENSION: Final = "assistantd.outlet"


class Outlet:
    """Where the body of one response may be written at once. Ask `open` before each `write`."""

    __slots__ = ("_cycle", "_flow", "_leaves", "_write")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._flow = cycle.flow
        self._leaves = cycle.transport.is_closing
        self._write = cycle.transport.write

    @property
    def open(self) -> bool:
        """Whether the response is under way, and its client takes what it is sent."""
        cycle = self._cycle
        return not (
            self._flow.write_paused
            or cycle.disconnected
            or cycle.response_complete
            or not cycle.chunked_encoding
            or self._leaves()
        )

    def write(self, data: bytes) -> None:
        """Send a piece of the body behind all that was sent."""
        self._write(b"%x\r\n%b\r\n" % (len(data), data))


class OutspokenProtocol(HttpToolsProtocol):
    """Uvicorn's, whose requests know their outlet."""

    @override
    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self.cycle is not None and self.cycle.scope is self.scope:
            # Weak: otherwise each request would wait for the garbage collector.
            self.scope["extensions"] = {EXTENSION: {"cycle": weakref.ref(self.cycle)}}


def outlet(scope: Scope) -> Outlet | None:
    """The outlet of a request's response, if its server has one."""
    offered = scope.get("extensions", {}).get(EXTENSION)
    cycle = None if offered is None else offered["cycle"]()
    return None if cycle is None else Outlet(cycle)
