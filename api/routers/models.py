"""/v1/models: what the model server behind us offers."""

from typing import Any

from fastapi import APIRouter, Response

from api import document
from api.dependencies import AUTHENTICATED, OpenResources
from api.errors import RESPONSES, ErrorEnvelope, envelope
from api.responses import reply
from orchestrator.echo import echo

NOT_OURS = "You have insufficient permissions for this operation. Only fine-tuned models can be deleted."
FORBIDDEN: dict[int | str, dict[str, Any]] = {
    403: {"model": ErrorEnvelope, "description": "The model cannot be deleted.", "headers": document.HEADERS}
}

router = APIRouter(prefix="/models", tags=["Models"], responses=RESPONSES, dependencies=[AUTHENTICATED])


@router.get("", operation_id="listModels", responses=document.ok("Models"))
async def list_(resources: OpenResources) -> Response:
    """List the models that assistants can use."""
    return reply({"object": "list", "data": await resources.model.models()})


@router.get("/{model:path}", operation_id="retrieveModel", responses=document.ok("Model"))
async def retrieve(model: str, resources: OpenResources) -> Response:
    """Retrieve a model."""
    found = await resources.model.retrieve(model)
    return _missing(model) if found is None else reply(found)


@router.delete("/{model:path}", operation_id="deleteModel", responses={**document.ok("Deleted"), **FORBIDDEN})
async def delete(model: str, resources: OpenResources) -> Response:
    """Delete a fine-tuned model. There is none yet, and the model server's own are not ours to delete."""
    if await resources.model.retrieve(model) is None:
        return _missing(model)
    return envelope(403, NOT_OURS)


def _missing(model: str) -> Response:
    return envelope(404, f"The model '{echo(model, 256)}' does not exist", param="model", code="model_not_found")
