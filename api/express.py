"""The short way for plain requests: what clients ask for most is answered before FastAPI looks at it.

    request ─▶ one of ours, in its plain form, with a good key? ──yes──▶ `api.plain` ──done──▶ answer
                       │ no                                                   │ not plain after all
                       └──────────────▶ FastAPI, the routers, the verbs ◀─────┘

Nothing is ever refused here: whatever is unusual, or wrong, goes the long way, which knows the rules and the words. So
each verb stands in `routers`, too, and the long way must be right without this one. The cost is why: of the 5 ms of a
run's creation, FastAPI took one and the ORM three.
"""

from typing import Final

from fastapi import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import unavailable
from api.plain import VERBS, Asked, Means, Verb
from orchestrator import db
from orchestrator.settings import Settings

LARGEST: Final = 64 * 1024
"""Bytes of a plain body."""
BETA: Final = b"assistants=v2"


class Express:
    """Wraps the application and its other middleware; `RequestContext` wraps it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a plain request; hand on any other as it came."""
        ours: Means | None = getattr(scope["app"].state, "means", None) if scope["type"] == "http" else None
        found = None if ours is None else _verb(scope)
        if ours is None or found is None:
            await self.app(scope, receive, send)
            return
        verb, ids = found
        if not _plain(ours.settings, scope):
            await self.app(scope, receive, send)
            return
        heard = [] if verb.method == "GET" else await _heard(receive)
        try:
            response = await _answered(ours, verb, ids, scope, heard, receive)
        except Exception as error:
            if not db.passes(error):
                raise
            response = unavailable(error)
        if response is None:
            scope["state"].pop("project_id", None)  # the long way finds out for itself
            await self.app(scope, _again(heard, receive), send)
        else:
            scope["route"] = verb
            await response(scope, receive, send)


def _verb(scope: Scope) -> tuple[Verb, tuple[str, ...]] | None:
    path, method = scope["path"], scope["method"]
    if not path.startswith("/v1/threads/"):
        return None
    for verb in VERBS:
        if verb.method == method and (match := verb.pattern.fullmatch(path)):
            return verb, match.groups()
    return None


def _plain(settings: Settings, scope: Scope) -> bool:
    """Whether nothing about the request itself needs a closer look."""
    if settings.strict_beta_header and _header(scope, b"openai-beta") != BETA:
        return False
    length = _header(scope, b"content-length")
    if scope["method"] == "GET":
        return length in (b"", b"0")
    small = len(length) < 7 and length.isdigit() and int(length) <= min(LARGEST, settings.body_limit)
    return small and not _header(scope, b"content-type").lower().startswith(b"multipart/")


def _header(scope: Scope, wanted: bytes) -> bytes:
    """The first of that name; empty if there is none."""
    for name, value in scope["headers"]:
        if name == wanted:
            return bytes(value)
    return b""


async def _heard(receive: Receive) -> list[Message]:
    """All that comes, or at least more than a plain body has."""
    heard, size, more = [], 0, True
    while more and size <= LARGEST:
        message = await receive()
        heard.append(message)
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    return heard


async def _answered(
    means: Means, verb: Verb, ids: tuple[str, ...], scope: Scope, heard: list[Message], receive: Receive
) -> Response | None:
    if any(message["type"] != "http.request" for message in heard) or (heard and heard[-1].get("more_body")):
        return None
    body = b"".join(message.get("body", b"") for message in heard)
    authorization = _header(scope, b"authorization")
    project_id = await means.keys.project(authorization.decode("latin-1"))
    if project_id is None:
        return None
    scope["state"]["project_id"] = project_id
    return await verb.answer(Asked(means, project_id, ids, scope["query_string"], body, receive))


def _again(heard: list[Message], receive: Receive) -> Receive:
    """`receive` of a request of which something has been received already."""

    async def again() -> Message:
        return heard.pop(0) if heard else await receive()

    return again if heard else receive
