"""Bodies of the runs' verbs. All but the assistant may be left out or null: as the assistant says."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from orchestrator.wire.requests.fields import (
    MAX_INT,
    STORABLE,
    AssistantId,
    Body,
    Instructions,
    Metadata,
    ModelName,
    Part,
    Temperature,
    Tokens,
    TopP,
    refusal,
)
from orchestrator.wire.requests.formats import ReasoningEffort, ResponseFormat
from orchestrator.wire.requests.threads import CreateThread, InitialMessages, OnActiveRun
from orchestrator.wire.requests.tools import ToolChoice, ToolResourcesOverride, Tools

MAX_TOOL_OUTPUTS = 512 * 1024
"""Characters of all outputs of one request together."""


class TruncationStrategy(Part):
    """Which messages of the thread the model sees."""

    always = frozenset({"last_messages"})

    type: Literal["auto", "last_messages"]
    last_messages: Annotated[int, Field(ge=1, le=MAX_INT)] | None = None

    @model_validator(mode="after")
    def _last_messages_needs_its_number(self) -> "TruncationStrategy":
        if self.type == "last_messages" and self.last_messages is None:
            raise refusal(
                "Missing required parameter: '{param}'.", code="missing_required_parameter", at=("last_messages",)
            )
        return self


class _Run(Body):
    assistant_id: AssistantId
    model: ModelName | None = None
    reasoning_effort: ReasoningEffort | None = None
    instructions: Instructions | None = None
    tools: Tools | None = None
    metadata: Metadata = Field(default_factory=dict)
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stream: bool | None = None
    max_prompt_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    truncation_strategy: TruncationStrategy | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None


class CreateRun(_Run):
    """POST /threads/{thread_id}/runs."""

    additional_instructions: Instructions | None = None
    additional_messages: InitialMessages | None = None
    on_active_run: OnActiveRun | None = None


class CreateThreadAndRun(_Run):
    """POST /threads/runs."""

    thread: CreateThread | None = None
    tool_resources: ToolResourcesOverride | None = None


class ModifyRun(Body):
    """POST /threads/{thread_id}/runs/{run_id}: metadata only."""

    metadata: Metadata = Field(default_factory=dict)


class ToolOutput(Part):
    """The client's answer to one tool call; no output counts as an empty one."""

    tool_call_id: Annotated[str, Field(max_length=256), STORABLE]
    output: Annotated[str, Field(max_length=MAX_TOOL_OUTPUTS), STORABLE] | None = None


class SubmitToolOutputs(Body):
    """POST /threads/{thread_id}/runs/{run_id}/submit_tool_outputs: all outputs that the run waits for, at once."""

    tool_outputs: Annotated[list[ToolOutput], Field(max_length=128, fail_fast=True)]
    stream: bool | None = None

    @model_validator(mode="after")
    def _outputs_are_bounded_together(self) -> "SubmitToolOutputs":
        total = sum(len(each.output or "") for each in self.tool_outputs)
        if total > MAX_TOOL_OUTPUTS:
            message = (
                f"Invalid '{{param}}': outputs too long. Expected outputs with maximum total length "
                f"{MAX_TOOL_OUTPUTS}, but got outputs with total length {total} instead."
            )
            raise refusal(message, code="string_above_max_length", at=("tool_outputs",))
        return self
