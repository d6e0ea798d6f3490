"""What surrounds a request: its id, the headers of every answer, one line in the log, and the last resort.

Outermost of our middleware, and pure ASGI: Starlette's BaseHTTPMiddleware would break streams. Log lines name the
route's template, never the path's ids, the query or a body. An error that no handler knows ends here as a 500 with the
envelope; had the answer begun, it is raised again, so that the server cuts the connection and the client sees it break.
"""

import re
import secrets
import time
from typing import Any

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, reset_contextvars

from api.errors import crashed

ID_HEADER = b"x-request-id"
PREFIX = "/v1"
VERSION = (b"openai-version", b"2020-10-01")
PROBES = frozenset({"/healthz", "/readyz"})
"""Asked by every proxy each second: that all is well is worth no line."""
SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")

log = structlog.get_logger(__name__)


class RequestContext:
    """Wraps the application; add it last, so that it is outermost."""

    def __init__(self, app: ASGIApp, organization: str = "assistantd") -> None:
        self.app = app
        self.organization = organization.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request and log it when it is over, however it ended."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        answer = _Answer(send, request_id(scope), self.organization, state)
        state["request_id"] = answer.request_id.decode()
        known = bind_contextvars(request_id=state["request_id"])
        try:
            await self._logged(scope, receive, answer)
        finally:
            reset_contextvars(**known)

    async def _logged(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            await self._served(scope, receive, answer)
        finally:
            tell = log.debug if scope["path"] in PROBES and answer.status == 200 else log.info
            tell(
                "request_finished",
                method=scope["method"],
                route=route(scope),
                status=answer.status,
                duration_ms=answer.elapsed_ms(),
            )

    async def _served(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            await self.app(scope, receive, answer.send)
        except ClientDisconnect:
            log.info("client_disconnected")
        except Exception as error:
            response = crashed(error)
            if answer.status is not None:
                raise
            await response(scope, receive, answer.send)


def request_id(scope: Scope) -> bytes:
    """The client's own id if it is a sane one, otherwise a new one."""
    given = next((value for name, value in scope["headers"] if name == ID_HEADER), b"")
    return given if SANE_ID.fullmatch(given) else f"req_{secrets.token_hex(16)}".encode()


def route(scope: Scope) -> str:
    """The template of the route that was found; a route of an included router knows only its own part of it."""
    path: str | None = getattr(scope.get("route"), "path", None)
    if path is None:
        return "unknown"
    return f"{PREFIX}{path}" if scope["path"].startswith(f"{PREFIX}/") and not path.startswith(PREFIX) else path


class _Answer:
    """The way back to the client: adds the headers and remembers the status (None until it began).

    `state` is the request's: whoever finds out whose key it carries leaves the `project_id` there.
    """

    def __init__(self, send: Send, request_id: bytes, organization: bytes, state: dict[str, Any]) -> None:
        self.request_id = request_id
        self.status: int | None = None
        self._send = send
        self._organization = organization
        self._state = state
        self._began = time.monotonic()

    def elapsed_ms(self) -> int:
        return int((time.monotonic() - self._began) * 1000)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            spent = str(self.elapsed_ms()).encode()
            extra = [
                (ID_HEADER, self.request_id),
                VERSION,
                (b"openai-processing-ms", spent),
                (b"openai-organization", self._organization),
            ]
            if project_id := self._state.get("project_id"):
                extra.append((b"openai-project", project_id.encode()))
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        await self._send(message)
