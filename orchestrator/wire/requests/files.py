"""Forms and bodies of the files' and uploads' verbs.

The rules for what a file may be, which are ours where the original's are not known:

- `fine-tune` and `batch`: the filename ends in `.jsonl`; batch files have at most 200 MB and live for 30 days unless
  the client says otherwise. What is in the lines is looked at by whoever uses them.
- Any other purpose takes any filename. Whether a file can be searched or shown is decided where it is used.
- The content type of a form's file part is not looked at: clients guess it from the name, each in its own way.
- `mime_type` of an upload must be well formed (`type/subtype`); for `vision` it must be one of the images that models
  read. It is not compared with the filename, for the same reason.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from orchestrator.echo import echo
from orchestrator.wire.requests.fields import STORABLE, Body, Part, Text, refusal
from orchestrator.wire.requests.lists import plain_number

MAX_FILENAME = 512
MAX_BATCH = 200 * 1024 * 1024
BATCH_LIFETIME = 30 * 24 * 3600
MAX_PARTS = 10_000
MAX_SIZE = 2**53
PURPOSES = ("fine-tune", "assistants", "batch", "user_data", "vision", "evals")
LINES = frozenset({"fine-tune", "batch"})
"""Purposes whose files are lines of JSON."""
IMAGES = ("image/gif", "image/jpeg", "image/png", "image/webp")

_MIME_TYPE = re.compile(r"([\w!#$&^.+-]{1,127}/[\w!#$&^.+-]{1,127})\s*(;.*)?", re.ASCII)


def _purpose(value: str) -> str:
    if value not in PURPOSES:
        raise refusal(f"'{echo(value, 64)}' is not one of {list(PURPOSES)} - '{{param}}'", code=None)
    return value


Purpose = Annotated[str, AfterValidator(_purpose), Field(json_schema_extra={"enum": list(PURPOSES)})]
Filename = Annotated[str, Field(min_length=1, max_length=MAX_FILENAME), STORABLE]


class ExpiresAfter(Part):
    """When a file goes by itself."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000), BeforeValidator(plain_number)]


class NewFile(Body):
    """What both ways to a file say about it."""

    filename: Filename
    purpose: Purpose
    expires_after: ExpiresAfter | None = None

    @model_validator(mode="after")
    def _has_the_right_extension(self) -> Self:
        if self.purpose in LINES and not self.filename.lower().endswith(".jsonl"):
            _, dot, extension = self.filename.rpartition(".")
            shown = echo(extension, 32) if dot else "none"
            raise refusal(f'Invalid extension {shown}. Supported formats: "jsonl"', code=None, at=("filename",))
        return self

    @property
    def lifetime(self) -> int | None:
        """Seconds from the file's creation to its expiry; None for ever."""
        if self.expires_after is not None:
            return self.expires_after.seconds
        return BATCH_LIFETIME if self.purpose == "batch" else None

    def largest(self, limit: int) -> int:
        """The bytes that such a file may have where `limit` holds for all."""
        return min(limit, MAX_BATCH) if self.purpose == "batch" else limit


class CreateFile(NewFile):
    """POST /files: the fields of the form, and the name of the file in it."""


class CreateUpload(NewFile):
    """POST /uploads: what is going to arrive."""

    bytes: Annotated[int, Field(ge=1, le=MAX_SIZE)]
    mime_type: Annotated[str, Field(min_length=1, max_length=255), STORABLE]

    @model_validator(mode="after")
    def _has_a_fitting_type(self) -> Self:
        shown = echo(self.mime_type, 64)
        found = _MIME_TYPE.fullmatch(self.mime_type)
        if found is None:
            raise refusal(f"Invalid '{{param}}': '{shown}' is not a MIME type.", at=("mime_type",))
        if self.purpose == "vision" and found[1].lower() not in IMAGES:
            message = f"Invalid '{{param}}': '{shown}'. Supported values for vision are: {', '.join(IMAGES)}."
            raise refusal(message, at=("mime_type",))
        return self


class CompleteUpload(Body):
    """POST /uploads/{upload_id}/complete: the parts in the order of the file."""

    part_ids: Annotated[list[Text], Field(min_length=1, max_length=MAX_PARTS, fail_fast=True)]
    md5: Text | None = None
