"""An answer of the model server as a response: asked for when the response is sent, given up when the client leaves.

The status is the upstream's, so it is not known before; and a client that goes away must be noticed while the model is
silent. Hence a response of its own in place of StreamingResponse. Nothing buffers on the way, each piece is sent alone.
"""

import asyncio
from contextlib import AbstractAsyncContextManager, aclosing

from fastapi import Response
from starlette.types import Receive, Scope, Send

from api.sse import HEADERS
from api.waiting import while_connected
from orchestrator.openai_gateway import Answer

SEND_PATIENCE = 60.0
"""Seconds after which a client that takes nothing is left: its place is another's."""


class Relay(Response):
    """Relays an answer that has not been asked for yet. Errors before it begins become the usual responses."""

    def __init__(self, answer: AbstractAsyncContextManager[Answer]) -> None:
        super().__init__()
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it while the client listens; otherwise raise ClientDisconnect, with the request upstream cut."""
        await while_connected(receive, self._relayed(send))

    async def _relayed(self, send: Send) -> None:
        async with self._answer as answer, aclosing(answer.pieces) as pieces:
            kind = "text/event-stream; charset=utf-8" if answer.streams else "application/json"
            headers = {**answer.headers, "content-type": kind, **(HEADERS if answer.streams else {})}
            raw = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": 200, "headers": raw})
            async for piece in pieces:
                async with asyncio.timeout(SEND_PATIENCE):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
