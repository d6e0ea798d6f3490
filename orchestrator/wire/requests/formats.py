"""How the model shall answer: response_format, reasoning_effort."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from orchestrator.foreign import Json
from orchestrator.wire.requests.fields import MARK, STORABLE, TEXT, JsonObject, Part, variant
from orchestrator.wire.requests.tools import FUNCTION_NAME

ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class TextFormat(Part):
    """Plain text."""

    type: Literal["text"]


class JsonObjectFormat(Part):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchema(Part):
    """A named schema for the answer."""

    name: Annotated[str, Field(pattern=FUNCTION_NAME, max_length=64)]
    description: Annotated[str, Field(max_length=256_000), STORABLE] | None = None
    schema_: JsonObject | None = Field(default=None, alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(Part):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


def _format(value: Json) -> str | None:
    return TEXT if isinstance(value, str) else variant(value)


ResponseFormat = Annotated[
    Annotated[Literal["auto"], Tag(TEXT)]
    | Annotated[TextFormat, Tag(f"{MARK}text")]
    | Annotated[JsonObjectFormat, Tag(f"{MARK}json_object")]
    | Annotated[JsonSchemaFormat, Tag(f"{MARK}json_schema")],
    Discriminator(_format),
]
"""`"auto"` or one of the objects; stored as it came."""
