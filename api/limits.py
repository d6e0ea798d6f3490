"""Bodies at the door: none larger than `settings.body_limit`, and all of them read as JSON, except forms with files.

Counted as they arrive: a chunked body is refused at the first byte too many, and nothing is kept. The connection is not
closed, the server discards the rest: closing it would reset it before the client could read why. `curl -d` sends JSON
under the name of a form; the content type of anything but multipart is therefore rewritten before FastAPI looks.
"""

import re

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import client_error
from orchestrator.errors import TooLarge

TYPE = b"content-type"
LENGTH = b"content-length"
STREAMED = re.compile(r"/v1/(files|uploads/[^/]+/parts)")
"""Where forms bring files; what reads those has limits of its own."""


class BodyLimit:
    """Refuses bodies over `limit` bytes with 413."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer at once when the length is announced; otherwise let the reader of the body meet the error."""
        if scope["type"] != "http" or STREAMED.fullmatch(scope["path"]):
            await self.app(scope, receive, send)
            return
        length = _header(scope, LENGTH)
        if length.isdigit() and (len(length) > 18 or int(length) > self.limit):
            await client_error(TooLarge(self._text()))(scope, receive, send)
            return
        await self.app(scope, self._counted(receive), send)

    def _text(self) -> str:
        return f"The request body is too large. Expected a body of at most {self.limit} bytes."

    def _counted(self, receive: Receive) -> Receive:
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self.limit:
                    # FastAPI lets nothing but its own exception pass while it reads a body.
                    raise HTTPException(413, self._text())
            return message

        return counted


class JsonBodies:
    """Names every body JSON, except multipart ones."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Rewrite the content type; what is then no JSON gets the error for malformed JSON."""
        if scope["type"] == "http" and not _may_be_a_form(scope):
            kept = [(name, value) for name, value in scope["headers"] if name != TYPE]
            # In place: a copy would hide from RequestContext which route the router finds.
            scope["headers"] = [*kept, (TYPE, b"application/json")]
        await self.app(scope, receive, send)


def _may_be_a_form(scope: Scope) -> bool:
    """Where forms are expected, whatever comes instead is told by its own name."""
    return STREAMED.fullmatch(scope["path"]) is not None or _header(scope, TYPE).lower().startswith(b"multipart/")


def _header(scope: Scope, wanted: bytes) -> bytes:
    return next((bytes(value) for name, value in scope["headers"] if name == wanted), b"")
