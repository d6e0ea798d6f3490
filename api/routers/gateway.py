"""/v1/chat/completions and /v1/embeddings: passed on to the model server behind us.

Nobody holds a connection of the database while the model answers. Completions are not stored here, so the operations on
stored ones do not exist.
"""

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from api import document
from api.dependencies import AUTHENTICATED, ModelGateway
from api.errors import RESPONSES
from api.relay import Relay
from orchestrator.openai_gateway import Question
from orchestrator.wire.requests.passed_on import ChatCompletion, Embeddings, PassedOn


class RelayedDetail(BaseModel):
    """What the model server found wrong, in its own words."""

    message: str
    type: str
    param: str | None
    code: str | None


class RelayedEnvelope(BaseModel):
    """An error of the model server."""

    error: RelayedDetail


RELAYED: dict[int | str, dict[str, Any]] = {
    status: {"model": RelayedEnvelope, "description": "The model server's own refusal.", "headers": document.HEADERS}
    for status in (400, 404, "4XX", "5XX")
}
DOCUMENT: dict[str, Any] = {"schema": {"type": "object", "description": "As the model server wrote it."}}
EVENTS: dict[str, Any] = {
    "itemSchema": {
        "type": "object",
        "properties": {"data": {"type": "string", "description": "A chunk as JSON; `[DONE]` at the end."}},
        "required": ["data"],
    }
}
OK: dict[str, Any] = {"description": "OK", "headers": document.HEADERS}

router = APIRouter(tags=["Model server"], responses={**RESPONSES, **RELAYED}, dependencies=[AUTHENTICATED])


@router.post(
    "/chat/completions",
    operation_id="createChatCompletion",
    responses={200: {**OK, "content": {"application/json": DOCUMENT, "text/event-stream": EVENTS}}},
)
async def complete(body: ChatCompletion, request: Request, gateway: ModelGateway) -> Response:
    """Ask the model server for a chat completion, streamed or whole."""
    return Relay(gateway.complete(await _question(request, body, streams=bool(body.stream))))


@router.post(
    "/embeddings",
    operation_id="createEmbedding",
    responses={200: {**OK, "content": {"application/json": DOCUMENT}}},
)
async def embed(body: Embeddings, request: Request, gateway: ModelGateway) -> Response:
    """Ask the model server for embeddings. They come in the encoding that was asked for, whatever it knows."""
    return Relay(gateway.embed(await _question(request, body), body.encoding_format or "float"))


async def _question(request: Request, body: PassedOn, *, streams: bool = False) -> Question:
    return Question(await request.body(), body.model, request.state.request_id, streams)
