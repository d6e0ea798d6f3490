"""Bodies of the assistants' verbs. Omitted keys of a modification leave the stored value unchanged; null empties it."""

from typing import Annotated

from pydantic import Field, field_validator
from pydantic.json_schema import SkipJsonSchema

from orchestrator.foreign import Json
from orchestrator.wire.requests.fields import (
    STORABLE,
    Body,
    Instructions,
    Metadata,
    ModelName,
    Temperature,
    TopP,
    refusal,
)
from orchestrator.wire.requests.formats import ReasoningEffort, ResponseFormat
from orchestrator.wire.requests.tools import ToolResources, ToolResourcesOverride, Tools


class _Assistant(Body):
    name: Annotated[str, Field(max_length=256), STORABLE] | None = None
    description: Annotated[str, Field(max_length=512), STORABLE] | None = None
    instructions: Instructions | None = None
    reasoning_effort: ReasoningEffort | None = None
    tools: Tools = Field(default_factory=list)
    metadata: Metadata = Field(default_factory=dict)
    temperature: Temperature | None = None
    top_p: TopP | None = None
    response_format: ResponseFormat | None = None


class CreateAssistant(_Assistant):
    """POST /assistants: only `model` is required."""

    model: ModelName
    tool_resources: ToolResources | None = None


class ModifyAssistant(_Assistant):
    """POST /assistants/{assistant_id}: `model_dump(exclude_unset=True)` is what changes."""

    model: ModelName | SkipJsonSchema[None] = None
    tool_resources: ToolResourcesOverride | None = None

    @field_validator("model", mode="before")
    @classmethod
    def _model_cannot_be_emptied(cls, value: Json) -> Json:
        if value is None:
            message = "Invalid type for '{param}': expected a string, but got null instead."
            raise refusal(message, code="invalid_type")
        return value
