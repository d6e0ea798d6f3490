"""Errors as HTTP: every answer that is not a success carries the original's envelope, all four keys of it.

`install(app)` is all that an application needs, besides `api.context.RequestContext`, which answers what nobody
foresaw. Validation is 400, never 422. Texts shown to clients never hold internals; logs never hold content, so an
unforeseen error is logged with its type and its frames, but without the text of errors that quote statements or bodies.
"""

import socket
import traceback
from collections.abc import Mapping
from typing import Any, Literal

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from redis import exceptions as redis_errors
from sqlalchemy import exc as sql_errors
from starlette.exceptions import HTTPException
from starlette.routing import Match

from api import document
from api.error_texts import NOT_JSON, invalid_request
from orchestrator import db
from orchestrator.echo import echo
from orchestrator.errors import (
    Busy,
    ClientError,
    InvalidRequest,
    NotFound,
    Relayed,
    TooLarge,
    TooSlow,
    Unauthenticated,
    Unavailable,
)
from orchestrator.storage import StorageError
from orchestrator.wire import unsupported

SERVER_ERROR = (
    "The server had an error processing your request. Sorry about that! You can retry your request, or contact the "
    "operator of this server if you keep seeing this error."
)
UNAVAILABLE = "The server is temporarily unable to process your request. Please try again later."
MAX_MESSAGE = 4000
METHODS = ("DELETE", "GET", "POST")
"""All that our operations use."""

STATUSES: Mapping[type[ClientError], int] = {
    InvalidRequest: 400,
    Unauthenticated: 401,
    NotFound: 404,
    TooSlow: 408,
    TooLarge: 413,
    Busy: 429,
    Unavailable: 503,
}
ADVICE: Mapping[type[ClientError], Mapping[str, str]] = {
    Unavailable: {"Retry-After": "1"},
    TooSlow: {"Connection": "close"},  # or the server would go on waiting for the rest
}

QUOTING = (sql_errors.SQLAlchemyError, ValidationError, RequestValidationError, ValueError)
"""Errors whose text may quote what clients sent or rows hold."""

log = structlog.get_logger(__name__)


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    code: str | None


class ErrorEnvelope(BaseModel):
    """Every answer that is not a success."""

    error: ErrorDetail


MEANINGS: Mapping[int, str] = {
    400: "The request cannot be honoured as it is.",
    401: "The key is missing or wrong.",
    404: "There is no such object.",
    413: "The body is too large.",
    500: "The server failed.",
    503: "A part of the server is away for the moment; trying again helps.",
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorEnvelope, "description": meaning, "headers": document.HEADERS}
    for status, meaning in MEANINGS.items()
}
"""For `APIRouter(responses=RESPONSES)`: every status that an operation can answer with. A fuzz run holds us to it."""
UPLOADING: dict[int | str, dict[str, Any]] = {
    408: {"model": ErrorEnvelope, "description": "The client stopped sending.", "headers": document.HEADERS}
}
"""What operations that take files add to them."""
QUEUEING: dict[int | str, dict[str, Any]] = {
    429: {
        "model": ErrorEnvelope,
        "description": "Too many runs of the project wait to begin; trying again after `Retry-After` seconds helps.",
        "headers": document.HEADERS,
    }
}
"""What operations that make runs add to them."""


def install(app: FastAPI) -> None:
    """Make this application answer every error with the envelope."""
    app.exception_handler(ClientError)(_client_error)
    app.exception_handler(StorageError)(_storage_away)
    app.exception_handler(RequestValidationError)(_validation_error)
    app.exception_handler(HTTPException)(_http_error)
    for away in (
        ConnectionError,
        TimeoutError,
        socket.gaierror,
        redis_errors.ConnectionError,
        redis_errors.TimeoutError,
        sql_errors.TimeoutError,
    ):
        app.exception_handler(away)(_backend_away)
    app.exception_handler(sql_errors.DBAPIError)(_database_error)


def envelope(
    status: int,
    message: str,
    *,
    type_: str = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error as a response."""
    error = {"message": _clean(message), "type": type_, "param": param and _clean(param), "code": code}
    content = orjson.dumps({"error": error})
    return Response(content, status, headers=dict(headers or {}), media_type="application/json")


def client_error(error: ClientError) -> Response:
    """An error of our tree as a response, for those that answer outside the routes, such as middleware."""
    if isinstance(error, Relayed):
        status, headers = error.status, error.headers
    else:
        status = next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
        headers = next((advice for kind, advice in ADVICE.items() if isinstance(error, kind)), {})
    if isinstance(error, Busy):
        headers = {"Retry-After": str(error.retry_after)}
    return envelope(status, error.message, type_=error.type, param=error.param, code=error.code, headers=headers)


def crashed(error: Exception) -> Response:
    """Answers and logs what nobody foresaw."""
    log.error("request_crashed", **facts(error))
    return envelope(500, SERVER_ERROR, type_="server_error")


def facts(error: Exception) -> dict[str, str]:
    """What may be logged of an error: its type, where it came from, and its text unless that may quote content."""
    known = {
        "error": f"{type(error).__module__}.{type(error).__qualname__}",
        "frames": "".join(traceback.format_tb(error.__traceback__)[-12:]),
    }
    cause = error.__cause__ or error.__context__
    if cause is not None:
        known["cause"] = f"{type(cause).__module__}.{type(cause).__qualname__}"
        known["cause_frames"] = "".join(traceback.format_tb(cause.__traceback__)[-12:])
    if not isinstance(error, QUOTING):
        known["text"] = echo(str(error), 500)
    return known


async def _client_error(_request: Request, error: ClientError) -> Response:
    return client_error(error)


async def _validation_error(_request: Request, error: RequestValidationError) -> Response:
    return client_error(invalid_request(error.errors(), error.body))


async def _http_error(request: Request, error: HTTPException) -> Response:
    path = echo(request.scope["path"], 200)
    if error.status_code == 404:
        return envelope(404, f"Invalid URL ({request.method} {path}){unsupported.family(path)}", code="unknown_url")
    if error.status_code == 405:
        text = f"Not allowed to {request.method} on {path}."
        return envelope(405, text, code="method_not_supported", headers={"Allow": _allowed(request)})
    if error.status_code == 400:
        return envelope(400, NOT_JSON)
    type_ = "server_error" if error.status_code >= 500 else "invalid_request_error"
    return envelope(error.status_code, error.detail, type_=type_, headers=error.headers)


def _allowed(request: Request) -> str:
    """The methods of this path. Starlette names those of the first route only, and each of our operations is one."""
    routes = request.app.routes
    asked = [(method, {**request.scope, "method": method}) for method in METHODS]
    return ", ".join(
        method for method, scope in asked if any(route.matches(scope)[0] is Match.FULL for route in routes)
    )


async def _backend_away(_request: Request, error: Exception) -> Response:
    return unavailable(error)


async def _storage_away(_request: Request, error: StorageError) -> Response:
    log.error("storage_failed", reason=error.reason)
    return client_error(error)


async def _database_error(_request: Request, error: sql_errors.DBAPIError) -> Response:
    return unavailable(error) if db.passes(error) else crashed(error)


def unavailable(error: Exception) -> Response:
    """Answers and logs that a part of the server is away."""
    log.warning("backend_unavailable", error=f"{type(error).__module__}.{type(error).__qualname__}")
    return client_error(Unavailable(UNAVAILABLE))


def _clean(text: str) -> str:
    """Bounded, and something that UTF-8 can carry."""
    cut = text if len(text) <= MAX_MESSAGE else f"{text[: MAX_MESSAGE - 1]}…"
    return cut.encode("utf-8", "backslashreplace").decode("utf-8")
