"""Queries: `Annotated[ListQuery, Query()]` in a router. Query values are texts, so numbers are read from texts here."""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from orchestrator.foreign import Json
from orchestrator.wire.requests.fields import Metadata, Text

MAX_LIMIT = 100
DEFAULT_LIMIT = 20
MAX_FILES = 10_000
MAX_WAIT = 60

_DIGITS = re.compile(r"[+-]?[0-9]{1,18}")
_PAIR = re.compile(r"metadata\[(.*)\]", re.DOTALL)


def plain_number(value: Json) -> Json:
    """Only plain digits are a number: pydantic alone would also take `1_0` and ` 10.0 `."""
    return int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value


Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT, strict=True), BeforeValidator(plain_number)]


class ListQuery(BaseModel):
    """A page: `limit` objects by creation (newest first by default), those beyond the exclusive cursors."""

    model_config = ConfigDict(extra="forbid")

    limit: Limit = DEFAULT_LIMIT
    order: Literal["asc", "desc"] = "desc"
    after: Text | None = None
    before: Text | None = None


class WaitQuery(BaseModel):
    """An extension of the original: how many seconds an answer may wait until the run is at rest."""

    model_config = ConfigDict(extra="forbid")

    wait: Annotated[int, Field(ge=0, le=MAX_WAIT, strict=True), BeforeValidator(plain_number)] = 0


class ListThreadsQuery(ListQuery):
    """A page of threads whose metadata has all of these pairs: `metadata[key]=value`, any number of times."""

    metadata: Metadata = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather_pairs(cls, value: Json) -> Json:
        found = {key: _PAIR.fullmatch(key) for key in value}
        pairs = {match[1]: value[key] for key, match in found.items() if match}
        rest = {key: value[key] for key, match in found.items() if not match}
        return {**rest, "metadata": pairs} if pairs and "metadata" not in rest else rest


class ListMessagesQuery(ListQuery):
    """A page of messages, of one run if `run_id` is given."""

    run_id: Text | None = None


class ListFilesQuery(BaseModel):
    """A page of files, of one purpose if it is given. The original knew no `before` here, and a larger `limit`."""

    model_config = ConfigDict(extra="forbid")
    before: ClassVar[None] = None

    limit: Annotated[int, Field(ge=1, le=MAX_FILES, strict=True), BeforeValidator(plain_number)] = MAX_FILES
    order: Literal["asc", "desc"] = "desc"
    after: Text | None = None
    purpose: Text | None = None


Include = Literal["step_details.tool_calls[*].file_search.results[*].content"]


class IncludeQuery(BaseModel):
    """`include[]=…` (the official clients) or `include=…`, of runs and their steps.

    Its only legal value asks for the contents of search results. As long as no run can search files there are none, so
    the wish is granted by doing nothing; refusing it would lock out the .NET client, which sends it with every run.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    include: list[Include] = Field(default_factory=list, max_length=16, fail_fast=True)
    include_brackets: list[Include] = Field(default_factory=list, max_length=16, fail_fast=True, alias="include[]")


class ListRunStepsQuery(ListQuery, IncludeQuery):
    """A page of run steps."""
