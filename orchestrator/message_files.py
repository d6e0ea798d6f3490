"""The files that messages name: whether they are there, and whether they can be what the message says they are."""

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from orchestrator import files
from orchestrator.db import Session
from orchestrator.errors import InvalidRequest
from orchestrator.tables import File
from orchestrator.wire.requests import CreateMessage, ImageFilePart
from orchestrator.wire.requests.messages import IMAGE_TYPES

MAX_IMAGE = 20 * 1024 * 1024
"""Bytes of one image that models are sent (the original's bound)."""


async def check(session: Session, project_id: str, bodies: Sequence[CreateMessage]) -> None:
    """Raise InvalidRequest unless the project has every file that these messages name, and images are images.

    One query, however many messages; none if no file is named.
    """
    images = [part.image_file.file_id for body in bodies for part in _images(body)]
    attached = [attachment.file_id for body in bodies for attachment in body.attachments or ()]
    if not images and not attached:
        return
    found = await files.existing(session, project_id, {*images, *attached})
    missing = [file_id for file_id in dict.fromkeys([*images, *attached]) if file_id not in found]
    if missing:
        raise InvalidRequest(f"Files [ {', '.join(repr(file_id) for file_id in missing)} ] were not found")
    for file_id in images:
        _check_image(found[file_id])


def named(body: CreateMessage) -> bool:
    """Whether a message names any file."""
    return bool(body.attachments) or next(_images(body), None) is not None


def _images(body: CreateMessage) -> Iterator[ImageFilePart]:
    for part in body.content if not isinstance(body.content, str) else ():
        if isinstance(part, ImageFilePart):
            yield part


def _check_image(file: File) -> None:
    extension = PurePosixPath(file.filename).suffix.lower()
    if extension not in IMAGE_TYPES:
        raise InvalidRequest(
            "Invalid message content: Expected file type to be a supported format: "
            f"{', '.join(IMAGE_TYPES)} but got {extension or 'none'}."
        )
    if file.bytes > MAX_IMAGE:
        raise InvalidRequest(
            f"Invalid message content: Expected an image of at most {MAX_IMAGE} bytes but got one of {file.bytes}."
        )
