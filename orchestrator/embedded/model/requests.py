"""Bodies of `POST /v1/chat/completions`, read strictly: what this server would not honour is refused, not ignored.

Two kinds of parameters are accepted without effect, since they promise nothing about the answer: those by which clients
keep their books (`user`, `metadata`, `store`, `service_tier`, `safety_identifier`, `prompt_cache_key`), and those about
depth and length of thought that this model does not have (`reasoning_effort`, `verbosity`).
"""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.foreign import Json

LONGEST_ANSWER = 1024

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class Body(BaseModel):
    """Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class TextPart(Body):
    """A part of a message. There are no other kinds: this model reads text only."""

    type: Literal["text"]
    text: str


class RefusalPart(Body):
    """What an assistant said instead of an answer."""

    type: Literal["refusal"]
    refusal: str


def _text_only(content: object) -> object:
    """Say so in words that whoever sent an image understands: they end up in `last_error` of the run."""
    parts = content if isinstance(content, list) else []
    if any(isinstance(part, dict) and part.get("type") in ("image_url", "input_audio", "file") for part in parts):
        raise PydanticCustomError("text_only", "The built-in model reads text only, no images, audio or files")
    return content


Content = Annotated[str | list[TextPart], BeforeValidator(_text_only)]


class Instructions(Body):
    """What the developer told the assistant."""

    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserMessage(Body):
    """What the user said."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class CalledFunction(Body):
    """A function and the arguments it was called with, as JSON text."""

    name: str
    arguments: str


class ToolCall(Body):
    """A call that the assistant made."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class AssistantMessage(Body):
    """What the assistant said, or which functions it called."""

    role: Literal["assistant"]
    content: str | list[TextPart | RefusalPart] | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    name: str | None = None
    audio: None = None


class ToolMessage(Body):
    """What a called function returned."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str


Message = Annotated[Instructions | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class Function(Body):
    """A function on offer."""

    name: Name
    description: str | None = None
    parameters: dict[str, Json] | None = None
    strict: bool | None = None  # arguments always follow the schema as far as the grammar can express it


class Tool(Body):
    """A tool on offer; functions are the only kind."""

    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    """The name of a function."""

    name: str


class NamedChoice(Body):
    """The function that must be called."""

    type: Literal["function"]
    function: NamedFunction


class TextFormat(Body):
    """Any text."""

    type: Literal["text"]


class JsonFormat(Body):
    """A JSON object."""

    type: Literal["json_object"]


class NamedSchema(Body):
    """A schema for the answer."""

    name: Name
    description: str | None = None
    schema_: dict[str, Json] = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class SchemaFormat(Body):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class StreamOptions(Body):
    """Whether the last chunk tells the usage."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(Body):
    """One request. `model` may be any name: there is one model here, and its own id is in the answer."""

    model: str
    messages: list[Message] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    seed: int | None = None
    response_format: Annotated[TextFormat | JsonFormat | SchemaFormat, Field(discriminator="type")] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None

    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    modalities: list[Literal["text"]] | None = None

    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None

    @model_validator(mode="after")
    def _choice_is_on_offer(self) -> "ChatRequest":
        offered = {tool.function.name for tool in self.tools or []}
        if isinstance(self.tool_choice, NamedChoice) and self.tool_choice.function.name not in offered:
            raise ValueError("tool_choice names a function that is not in tools.")
        if self.tool_choice == "required" and not offered:
            raise ValueError("tool_choice is 'required' but there are no tools.")
        return self

    @property
    def longest_answer(self) -> int:
        """How many tokens the answer may have. Never unbounded: small models can talk for ever."""
        return self.max_completion_tokens or self.max_tokens or LONGEST_ANSWER

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage
