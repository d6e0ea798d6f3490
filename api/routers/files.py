"""/v1/files."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import ValidationError

from api import document
from api.dependencies import CallerId, OpenResources, ProjectId, Transaction
from api.downloads import download
from api.error_texts import invalid_request
from api.errors import RESPONSES, UPLOADING
from api.forms import Form
from api.responses import page, reply
from orchestrator import blobs, files
from orchestrator.errors import InvalidRequest, TooLarge
from orchestrator.foreign import Json
from orchestrator.wire import objects
from orchestrator.wire.requests import CreateFile, ListFilesQuery
from orchestrator.wire.requests.files import PURPOSES

router = APIRouter(prefix="/files", tags=["Files"], responses=RESPONSES)

FIELDS = frozenset({"purpose", "expires_after[anchor]", "expires_after[seconds]"})
FORM = document.form(
    {
        "file": document.BINARY,
        "purpose": {"enum": list(PURPOSES)},
        "expires_after[anchor]": {"enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2_592_000},
    },
    required=["file", "purpose"],
)


@router.post("", operation_id="createFile", responses={**document.ok("File"), **UPLOADING}, openapi_extra=FORM)
async def create(request: Request, project_id: CallerId, resources: OpenResources) -> Response:
    """Upload a file. The form's fields may come before or behind it; nothing of it is kept in memory."""
    settings = resources.settings
    form = Form(request, file="file", fields=FIELDS, silence=settings.upload_silence)
    await form.begin()
    limit = settings.file_limit
    if purpose := form.fields.get("purpose"):  # then what is wrong is told before the bytes come
        limit = _read({"filename": form.filename, "purpose": purpose}).largest(limit)
    arriving = blobs.arriving(resources.database, resources.storage, form.content(limit), lease=settings.storage_lease)
    async with arriving as arrived:
        await form.finish()
        body = _read({"filename": form.filename, **_nested(form.fields)})
        if arrived.bytes > body.largest(settings.file_limit):
            raise TooLarge("The file is too large for its purpose.", param="file")
        async with resources.database.transaction() as session:
            file = await files.create(session, project_id, body, arrived)
    return reply(objects.file(file))


@router.get("", operation_id="listFiles", responses=document.page("File"))
async def list_(query: Annotated[ListFilesQuery, Query()], session: Transaction, project_id: ProjectId) -> Response:
    """List the project's files, newest first unless asked otherwise."""
    rows, more = await files.list_(session, project_id, query)
    return page(map(objects.file, rows), has_more=more)


@router.get("/{file_id}", operation_id="retrieveFile", responses=document.ok("File"))
async def retrieve(file_id: str, session: Transaction, project_id: ProjectId) -> Response:
    """Retrieve what is known about a file."""
    return reply(objects.file(await files.retrieve(session, project_id, file_id)))


@router.delete("/{file_id}", operation_id="deleteFile", responses=document.ok("FileDeleted"))
async def delete(file_id: str, session: Transaction, project_id: ProjectId) -> Response:
    """Delete a file."""
    return reply(objects.file_deleted(await files.delete(session, project_id, file_id)))


@router.get(
    "/{file_id}/content", operation_id="downloadFile", response_class=StreamingResponse, responses=document.raw()
)
async def content(file_id: str, project_id: CallerId, resources: OpenResources) -> Response:
    """Download a file's bytes. Like the original, this refuses files of purpose `assistants` and `user_data`, unless
    the server is set to allow it.
    """
    settings = resources.settings
    async with resources.database.transaction() as session:
        file, found = await files.downloadable(session, project_id, file_id, any_purpose=settings.download_any_purpose)
    return await download(file, blobs.content(resources.storage, found), settings.upload_silence)


def _read(value: Json) -> CreateFile:
    """What the form says. Raises InvalidRequest in the words that bodies get."""
    if not value.get("filename"):
        message = "Invalid type for 'file': expected a file, but got a part without a filename instead."
        raise InvalidRequest(message, param="file", code="invalid_type")
    try:
        return CreateFile.model_validate(value)
    except ValidationError as error:
        raise invalid_request([{**each, "loc": ("body", *each["loc"])} for each in error.errors()], value) from None


def _nested(fields: dict[str, str]) -> Json:
    """`expires_after[seconds]` as JSON would have it."""
    found: Json = {}
    for name, value in fields.items():
        outer, bracket, inner = name.partition("[")
        if bracket:
            found.setdefault(outer, {})[inner.removesuffix("]")] = value
        else:
            found[name] = value
    return found
