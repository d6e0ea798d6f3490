"""Bodies of the messages' verbs: content is a text or an array of parts."""

from pathlib import PurePosixPath
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Discriminator, Field, Tag, field_validator

from orchestrator.foreign import Json
from orchestrator.wire.requests.fields import BY_TYPE, MARK, STORABLE, TEXT, Body, Metadata, Part, Text, refusal
from orchestrator.wire.requests.tools import AttachmentTool

MAX_CONTENT = 256_000
MAX_PARTS = 256
MAX_ATTACHMENTS = 10
MAX_IMAGE_URL = 10 * 1024 * 1024
IMAGE_URLS = ("https://", "http://", "data:image/")

IMAGE_TYPES = {
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".gif": "image/gif",
    ".webp": "image/webp",
}
"""The extensions that the original took for images, in its order, and the media type of each."""

Detail = Literal["auto", "low", "high"]


class TextPart(Part):
    """`{"type": "text", "text": "…"}`: a string comes in, an object goes out."""

    type: Literal["text"]
    text: Annotated[str, Field(max_length=MAX_CONTENT), STORABLE]


class ImageUrl(Part):
    """Where an image is to be had."""

    always = frozenset({"detail"})

    url: Annotated[str, Field(max_length=MAX_IMAGE_URL), STORABLE]
    detail: Detail = "auto"

    @field_validator("url")
    @classmethod
    def _is_a_url(cls, value: str) -> str:
        if not value.lower().startswith(IMAGE_URLS):
            raise refusal("Invalid '{param}': Expected a valid URL, but got a value with an invalid format.")
        if not _may_be_an_image(value):
            raise refusal(f"Invalid '{{param}}'. Expected url to end in a supported format: {', '.join(IMAGE_TYPES)}.")
        return value


def _may_be_an_image(url: str) -> bool:
    """Whether the URL's path ends in a supported extension, or in none: many images are served without one."""
    try:
        path = PurePosixPath(urlsplit(url).path)
    except ValueError:  # such as a broken IPv6 address: whoever fetches it will say so
        return True
    return url[:5].lower() == "data:" or path.suffix.lower() in ("", *IMAGE_TYPES)


class ImageUrlPart(Part):
    """An image that the model fetches, or that the URL carries (`data:image/…`)."""

    type: Literal["image_url"]
    image_url: ImageUrl


class ImageFile(Part):
    """Which uploaded file is the image."""

    always = frozenset({"detail"})

    file_id: Text
    detail: Detail = "auto"


class ImageFilePart(Part):
    """An uploaded image."""

    type: Literal["image_file"]
    image_file: ImageFile


ContentPart = Annotated[
    Annotated[ImageFilePart, Tag(f"{MARK}image_file")]
    | Annotated[ImageUrlPart, Tag(f"{MARK}image_url")]
    | Annotated[TextPart, Tag(f"{MARK}text")],
    BY_TYPE,
]


def _content(value: Json) -> str | None:
    if isinstance(value, str):
        return TEXT
    return f"{MARK}=array" if isinstance(value, list) else None


Content = Annotated[
    Annotated[Annotated[str, Field(max_length=MAX_CONTENT), STORABLE], Tag(TEXT)]
    | Annotated[
        Annotated[list[ContentPart], Field(min_length=1, max_length=MAX_PARTS, fail_fast=True)], Tag(f"{MARK}=array")
    ],
    Discriminator(
        _content,
        custom_error_type="wrong_type",
        custom_error_message="expected one of a string or array of objects",
        custom_error_context={"expected": "one of a string or array of objects"},
    ),
]


class Attachment(Part):
    """A file that tools may use in this thread."""

    always = frozenset({"tools"})

    file_id: Text
    tools: Annotated[list[AttachmentTool], Field(max_length=16, fail_fast=True)] | None = Field(default_factory=list)


class CreateMessage(Body):
    """POST /threads/{thread_id}/messages; also the messages that a new thread or run brings along."""

    role: Literal["user", "assistant"]
    content: Content
    attachments: Annotated[list[Attachment], Field(max_length=MAX_ATTACHMENTS, fail_fast=True)] | None = None
    metadata: Metadata = Field(default_factory=dict)


class ModifyMessage(Body):
    """POST /threads/{thread_id}/messages/{message_id}: metadata only."""

    metadata: Metadata = Field(default_factory=dict)
