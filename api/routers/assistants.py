"""/v1/assistants."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from api import document
from api.dependencies import OpenResources, ProjectId, Transaction
from api.errors import RESPONSES
from api.responses import page, reply
from orchestrator import assistants, model_names
from orchestrator.wire import objects
from orchestrator.wire.requests import CreateAssistant, ListQuery, ModifyAssistant

router = APIRouter(prefix="/assistants", tags=["Assistants"], responses=RESPONSES)


@router.post("", operation_id="createAssistant", responses=document.ok("Assistant"))
async def create(
    body: CreateAssistant, session: Transaction, project_id: ProjectId, resources: OpenResources
) -> Response:
    """Create an assistant with a model and instructions."""
    model_names.check(resources.settings, body.model)
    return reply(objects.assistant(await assistants.create(session, project_id, body)))


@router.get("", operation_id="listAssistants", responses=document.page("Assistant"))
async def list_(query: Annotated[ListQuery, Query()], session: Transaction, project_id: ProjectId) -> Response:
    """List the project's assistants."""
    rows, more = await assistants.list_(session, project_id, query)
    return page(map(objects.assistant, rows), has_more=more)


@router.get("/{assistant_id}", operation_id="getAssistant", responses=document.ok("Assistant"))
async def retrieve(assistant_id: str, session: Transaction, project_id: ProjectId) -> Response:
    """Retrieve an assistant."""
    return reply(objects.assistant(await assistants.retrieve(session, project_id, assistant_id)))


@router.post("/{assistant_id}", operation_id="modifyAssistant", responses=document.ok("Assistant"))
async def modify(
    assistant_id: str, body: ModifyAssistant, session: Transaction, project_id: ProjectId, resources: OpenResources
) -> Response:
    """Modify an assistant: what the body does not name stays as it is."""
    model_names.check(resources.settings, body.model)
    return reply(objects.assistant(await assistants.modify(session, project_id, assistant_id, body)))


@router.delete("/{assistant_id}", operation_id="deleteAssistant", responses=document.ok("Deleted"))
async def delete(assistant_id: str, session: Transaction, project_id: ProjectId) -> Response:
    """Delete an assistant; threads and runs stay."""
    return reply(objects.deleted("assistant", await assistants.delete(session, project_id, assistant_id)))
