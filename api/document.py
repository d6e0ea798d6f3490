"""/openapi.json, and what the routes say for it: FastAPI makes it of them, less what is not true here.

The types of the answers are the official client's, and importing them takes as long as all else that this process
imports. Hence the routes name them only, and they are imported when somebody asks for the document: in a thread, beside
which requests and streams go on. FastAPI documents 422 for whatever it validates, with a body of its own; here that is
400, with the usual envelope.
"""

import asyncio
from threading import Lock
from typing import Any, Literal

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

Listed = Literal["Assistant", "File", "Message", "Run", "RunStep", "Thread"]
Answer = Listed | Literal["Deleted", "FileDeleted", "Model", "Models", "Upload", "UploadPart"]
"""The names of `orchestrator.wire.schemas.ANSWERS`."""

UNTRUE = "422"
UNUSED = ("HTTPValidationError", "ValidationError")
JSON = "application/json"
STREAM = "text/event-stream"
LATER: dict[str, Any] = {"$ref": "one server-sent event"}
"""Stands for it until the document is made: it names all that the official client knows."""


def _header(description: str) -> dict[str, Any]:
    return {"description": description, "required": True, "schema": {"type": "string"}}


HEADERS: dict[str, Any] = {
    "x-request-id": _header("The request's name in the log: the client's own `x-request-id`, or a new one."),
    "openai-processing-ms": _header("How long the server worked before it answered, in milliseconds."),
    "openai-version": _header("The version of the original that is spoken."),
}
"""What every answer carries."""
BINARY: dict[str, Any] = {"type": "string", "contentMediaType": "application/octet-stream"}
"""A file in a form."""


def form(properties: dict[str, Any], *, required: list[str]) -> dict[str, Any]:
    """The form that an operation reads by itself, for `openapi_extra=`."""
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def raw() -> dict[int | str, dict[str, Any]]:
    """The 200 of an operation that answers with bytes, for `responses=`."""
    return {200: {"description": "OK", "headers": HEADERS, "content": {"application/octet-stream": {}}}}


def ok(answer: Answer, *, streams: bool = False) -> dict[int | str, dict[str, Any]]:
    """The 200 of an operation, for `responses=`: an object, and an event stream for those who want it."""
    stream = streamed()[200]["content"] if streams else {}
    return {200: {"description": "OK", "headers": HEADERS, "content": {**_of(answer), **stream}}}


def page(item: Listed) -> dict[int | str, dict[str, Any]]:
    """The 200 of an operation that lists, for `responses=`."""
    return {200: {"description": "OK", "headers": HEADERS, "content": _of(f"Page_{item}_")}}


def streamed() -> dict[int | str, dict[str, Any]]:
    """The 200 of an operation that answers with events only, for `responses=`."""
    return {200: {"description": "OK", "headers": HEADERS, "content": {STREAM: {"itemSchema": LATER}}}}


def install(app: FastAPI) -> None:
    """Make this application describe itself truly."""
    making = Lock()

    def openapi() -> dict[str, Any]:
        with making:
            app.openapi_schema = app.openapi_schema or _made(app)
            return app.openapi_schema

    async def served(_request: Request) -> JSONResponse:
        return JSONResponse(await asyncio.to_thread(openapi))

    app.openapi = openapi  # type: ignore[method-assign]  # the way that FastAPI's documentation shows
    app.router.routes.insert(0, Route(str(app.openapi_url), served, include_in_schema=False))  # before FastAPI's own


def _made(app: FastAPI) -> dict[str, Any]:
    from orchestrator.wire import schemas  # here: see the module

    bearers = APIRouter()  # of the types: names are given to those of all routes together
    for answer in schemas.ANSWERS:
        bearers.add_api_route(f"/{answer.__name__}", _nothing, response_model=answer)
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        webhooks=bearers.routes,
    )
    del document["webhooks"]
    for operations in document["paths"].values():
        for operation in operations.values():
            _correct(operation["responses"], schemas.EVENT)
    for name in UNUSED:
        document["components"]["schemas"].pop(name, None)
    return document


def _correct(responses: dict[str, Any], event: dict[str, Any]) -> None:
    responses.pop(UNTRUE, None)
    stream = responses["200"].get("content", {}).get(STREAM, {})
    if stream.get("itemSchema") == LATER:
        stream["itemSchema"] = event


def _nothing() -> None:
    """Is never called: it bears a type."""


def _of(name: str) -> dict[str, Any]:
    return {JSON: {"schema": {"$ref": f"#/components/schemas/{name}"}}}
