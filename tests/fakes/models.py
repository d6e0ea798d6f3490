"""The models that the scripted model server says it has."""

from collections.abc import Callable
from typing import Any

import orjson
from aiohttp import web

MODELS = ("gpt-4o", "gpt-4o-mini", "o3-mini", "scripted", "org/scripted")


def model_routes(refuse: Callable[[web.Request], web.Response | None], created: int) -> list[web.RouteDef]:
    """GET /v1/models and /v1/models/{id}; `refuse` says no to requests without the right key."""

    def card(id_: str) -> dict[str, Any]:
        return {"id": id_, "object": "model", "created": created, "owned_by": "scripted"}

    async def list_(request: web.Request) -> web.Response:
        return refuse(request) or answer({"object": "list", "data": [card(id_) for id_ in MODELS]})

    async def retrieve(request: web.Request) -> web.Response:
        id_ = request.match_info["id"]
        if refused := refuse(request):
            return refused
        return answer(card(id_)) if id_ in MODELS else error(404, f"The model '{id_}' does not exist", "model")

    return [web.get("/v1/models", list_), web.get("/v1/models/{id:.+}", retrieve)]


def answer(body: Any, status: int = 200) -> web.Response:
    """Some JSON."""
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")


def error(status: int, message: str, param: str) -> web.Response:
    """An error in the original's envelope."""
    code = "model_not_found" if status == 404 else None
    return answer(
        {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}, status
    )
