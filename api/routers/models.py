"""/v1/models: what the model server behind us offers."""

from fastapi import APIRouter, Response

from api.dependencies import AUTHENTICATED, OpenResources
from api.errors import RESPONSES, envelope
from api.responses import reply
from orchestrator.echo import echo
from orchestrator.wire import schemas

router = APIRouter(prefix="/models", tags=["Models"], responses=RESPONSES, dependencies=[AUTHENTICATED])


@router.get("", operation_id="listModels", responses=schemas.ok(schemas.Models))
async def list_(resources: OpenResources) -> Response:
    """List the models that assistants can use."""
    return reply({"object": "list", "data": await resources.model.models()})


@router.get("/{model:path}", operation_id="retrieveModel", responses=schemas.ok(schemas.Model))
async def retrieve(model: str, resources: OpenResources) -> Response:
    """Retrieve a model."""
    found = await resources.model.retrieve(model)
    if found is None:
        message = f"The model '{echo(model, 256)}' does not exist"
        return envelope(404, message, param="model", code="model_not_found")
    return reply(found)
