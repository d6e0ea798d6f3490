"""The HTTP server of the API process: uvicorn, which tells the application when it leaves, and cuts who takes nothing.

    SIGTERM ─▶ /readyz says 503 for `drain_delay` seconds, all else goes on ─▶ nothing more is accepted
            ─▶ streams and long polls end at once, other requests within `shutdown_grace` ─▶ exit 0

A second signal skips the delay. Connections whose client takes nothing are dropped by the kernel after SILENCE seconds:
neither streams nor downloads need a clock for it.
"""

import asyncio
import os
import socket
import sys
from contextlib import suppress
from types import FrameType

import structlog
import uvicorn
from typing_extensions import override
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.app import create_app
from api.leaving import Leaving
from api.outlet import OutspokenProtocol
from orchestrator.settings import Settings

SILENCE = 60.0
"""Seconds that a client may take nothing of what is sent to it, or not be there any more."""
TICK = 0.1
KEEP_ALIVE = 65
"""Longer than clients keep idle connections, so that they close them and not we."""
CLOSE = (b"connection", b"close")

log = structlog.get_logger(__name__)


def serve(settings: Settings) -> None:
    """Serve the application until a signal asks for the end. Exits with a status if it cannot start."""
    app = create_app()
    config = uvicorn.Config(
        app,
        host=settings.api_host,
        port=settings.api_port,
        loop="auto",  # uvloop where there is one
        log_config=None,
        access_log=False,  # the application logs requests itself
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace)),
    )
    server = Server(config, app.state.leaving, drain_delay=settings.drain_delay)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(STARTUP_FAILURE)


class Server(uvicorn.Server):
    """See the module."""

    def __init__(
        self, config: uvicorn.Config, leaving: Leaving, *, drain_delay: float = 0.0, silence: float = SILENCE
    ) -> None:
        super().__init__(config)
        self._leaving = leaving
        self._drain_delay = drain_delay
        self._silence = silence
        self._hurried = False

    @property
    def draining(self) -> bool:
        """Whether it was asked to end."""
        return self._leaving.draining

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._hurried = self.should_exit
        super().handle_exit(sig, frame)

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self.config.http_protocol_class is HttpToolsProtocol:
            self.config.http_protocol_class = OutspokenProtocol
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                _drop_the_silent(listening.fileno(), self._silence)

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._leaving.drain()
        await self._linger()
        log.info("api_leaves", connections=len(self.server_state.connections))
        asyncio.get_running_loop().call_soon(self._leaving.leave)  # what follows stops accepting before it waits
        cutting = asyncio.create_task(self._cut_the_deaf(), name="cut the deaf")
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()
        self._captured_signals.clear()  # uvicorn would raise them again, and the process end by the signal

    async def _linger(self) -> None:
        """Serve on, while load balancers find out that we are not ready, and clients open no new connections here."""
        if not self._drain_delay:
            return
        log.info("api_drains", seconds=self._drain_delay)
        self.config.encoded_headers.append(CLOSE)
        for tick in range(round(self._drain_delay / TICK)):
            await self.on_tick(tick)
            if self._hurried or self.force_exit:
                break
            await asyncio.sleep(TICK)

    async def _cut_the_deaf(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            for connection in tuple(self.server_state.connections):
                if connection.transport is not None and getattr(connection, "client", None) in self._leaving.deaf:
                    connection.transport.abort()


def _drop_the_silent(descriptor: int, seconds: float) -> None:
    """Set on a listening socket, and so for all its connections. Where there is no such option, nothing happens."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is None:
        return
    with socket.socket(fileno=os.dup(descriptor)) as ours:
        if ours.family in (socket.AF_INET, socket.AF_INET6):
            ours.setsockopt(socket.IPPROTO_TCP, option, round(seconds * 1000))
