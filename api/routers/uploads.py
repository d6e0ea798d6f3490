"""/v1/uploads."""

from fastapi import APIRouter, Request, Response

from api import document
from api.dependencies import CallerId, OpenResources, ProjectId, Transaction
from api.errors import RESPONSES, UPLOADING
from api.forms import Form
from api.responses import reply
from orchestrator import blobs, uploads
from orchestrator.wire import objects
from orchestrator.wire.requests import CompleteUpload, CreateUpload

router = APIRouter(prefix="/uploads", tags=["Uploads"], responses=RESPONSES)

FORM = document.form({"data": document.BINARY}, required=["data"])


@router.post("", operation_id="createUpload", responses=document.ok("Upload"))
async def create(body: CreateUpload, session: Transaction, project_id: ProjectId, resources: OpenResources) -> Response:
    """Begin an upload, to which parts can be added until it is completed or expires."""
    settings = resources.settings
    upload = await uploads.create(
        session, project_id, body, lifetime=settings.upload_lifetime, limit=settings.upload_limit
    )
    return reply(objects.upload(upload))


@router.post(
    "/{upload_id}/parts",
    operation_id="addUploadPart",
    responses={**document.ok("UploadPart"), **UPLOADING},
    openapi_extra=FORM,
)
async def add_part(upload_id: str, request: Request, project_id: CallerId, resources: OpenResources) -> Response:
    """Add a part. Parts may come in parallel and in any order: completing says how they follow each other."""
    settings = resources.settings
    async with resources.database.transaction() as session:
        await uploads.pending(session, project_id, upload_id, "add a part to")
    form = Form(request, file="data", silence=settings.upload_silence)
    await form.begin()
    content = form.content(settings.part_limit)
    async with blobs.arriving(resources.database, resources.storage, content, lease=settings.storage_lease) as arrived:
        await form.finish()
        async with resources.database.transaction() as session:
            part = await uploads.add_part(session, project_id, upload_id, arrived, limit=settings.upload_limit)
    return reply(objects.upload_part(part))


@router.post("/{upload_id}/complete", operation_id="completeUpload", responses=document.ok("Upload"))
async def complete(upload_id: str, body: CompleteUpload, project_id: CallerId, resources: OpenResources) -> Response:
    """Make a file of the parts, in the given order. Their sizes must add up to what the upload was created for."""
    upload, file = await uploads.complete(resources.database, resources.storage, project_id, upload_id, body)
    return reply(objects.upload(upload, file))


@router.post("/{upload_id}/cancel", operation_id="cancelUpload", responses=document.ok("Upload"))
async def cancel(upload_id: str, session: Transaction, project_id: ProjectId) -> Response:
    """Give an upload up."""
    return reply(objects.upload(await uploads.cancel(session, project_id, upload_id)))
