"""Tools, the choice among them, and their resources, as request bodies name them.

Reading an assistant shows defaults that nobody sent (`parameters`, `strict`, the ranking options): they are part of the
dumped value, see `Part`. What a client reads must be accepted when it sends it back, hence `hybrid_search`.
"""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from orchestrator.foreign import Json
from orchestrator.wire.requests.fields import (
    BY_TYPE,
    MARK,
    STORABLE,
    TEXT,
    JsonObject,
    Metadata,
    Part,
    Text,
    refusal,
    variant,
)

FUNCTION_NAME = "^[a-zA-Z0-9_-]+$"
MAX_TOOLS = 128
HOSTED = f"{MARK}code_interpreter|file_search"


def no_parameters() -> dict[str, Json]:
    """The schema that the original shows for a function declared without parameters."""
    return {"type": "object", "properties": {}}


class FunctionDefinition(Part):
    """A function that the client can call for the model."""

    always = frozenset({"parameters", "strict"})

    name: Annotated[str, Field(pattern=FUNCTION_NAME, max_length=64)]
    description: Annotated[str, Field(max_length=256_000), STORABLE] | None = None
    parameters: JsonObject = Field(default_factory=no_parameters)
    strict: bool | None = False

    @field_validator("strict")
    @classmethod
    def _null_is_false(cls, value: bool | None) -> bool:
        return bool(value)

    @model_validator(mode="after")
    def _parameters_describe_an_object(self) -> "FunctionDefinition":
        kind = self.parameters.get("type", "object")
        if kind != "object":
            shown = kind if isinstance(kind, str) else type(kind).__name__
            message = (
                f"Invalid schema for function '{self.name}': "
                f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{shown[:64]}\"'."
            )
            raise refusal(message, code="invalid_function_parameters", at=("parameters",))
        return self


class FunctionTool(Part):
    """`{"type": "function", "function": {…}}`."""

    type: Literal["function"]
    function: FunctionDefinition


class RankingOptions(Part):
    """How search results are ranked; the threshold is required once the object is sent."""

    always = frozenset({"ranker", "hybrid_search"})

    ranker: Literal["auto", "default_2024_08_21"] = "default_2024_08_21"
    score_threshold: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
    hybrid_search: None = None


class FileSearchOptions(Part):
    """Overrides for the file_search tool."""

    always = frozenset({"ranking_options"})

    max_num_results: Annotated[int, Field(ge=1, le=50)] | None = None
    ranking_options: RankingOptions = Field(default_factory=lambda: RankingOptions(score_threshold=0.0))


class FileSearchTool(Part):
    """`{"type": "file_search", "file_search"?: {…}}`."""

    always = frozenset({"file_search"})

    type: Literal["file_search"]
    file_search: FileSearchOptions = Field(default_factory=FileSearchOptions)


class CodeInterpreterTool(Part):
    """`{"type": "code_interpreter"}`."""

    type: Literal["code_interpreter"]


class FileSearchKind(Part):
    """`{"type": "file_search"}` without options, as attachments name it."""

    type: Literal["file_search"]


Tool = Annotated[
    Annotated[CodeInterpreterTool, Tag(f"{MARK}code_interpreter")]
    | Annotated[FileSearchTool, Tag(f"{MARK}file_search")]
    | Annotated[FunctionTool, Tag(f"{MARK}function")],
    BY_TYPE,
]
AttachmentTool = Annotated[
    Annotated[CodeInterpreterTool, Tag(f"{MARK}code_interpreter")]
    | Annotated[FileSearchKind, Tag(f"{MARK}file_search")],
    BY_TYPE,
]
Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)]


class FunctionName(Part):
    """Names one function."""

    name: Annotated[str, Field(pattern=FUNCTION_NAME, max_length=64)]


class FunctionChoice(Part):
    """Forces one function."""

    type: Literal["function"]
    function: FunctionName


class HostedChoice(Part):
    """Forces a tool that the server runs."""

    type: Literal["code_interpreter", "file_search"]


def _choice(value: Json) -> str | None:
    if isinstance(value, str):
        return TEXT
    kind = variant(value)
    return HOSTED if kind in {f"{MARK}code_interpreter", f"{MARK}file_search"} else kind


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag(TEXT)]
    | Annotated[FunctionChoice, Tag(f"{MARK}function")]
    | Annotated[HostedChoice, Tag(HOSTED)],
    Discriminator(_choice),
]


class CodeInterpreterResources(Part):
    """Files that code can read."""

    always = frozenset({"file_ids"})

    file_ids: Annotated[list[Text], Field(max_length=20, fail_fast=True)] = Field(default_factory=list)


class FileSearchOverride(Part):
    """The vector store to search, where none can be created on the way."""

    always = frozenset({"vector_store_ids"})

    vector_store_ids: Annotated[list[Text], Field(max_length=1, fail_fast=True)] | None = Field(default_factory=list)

    @field_validator("vector_store_ids")
    @classmethod
    def _null_is_none_of_them(cls, value: list[str] | None) -> list[str]:
        return value or []


class StaticChunking(Part):
    """Chunks of a fixed size; they may overlap by half of it at most."""

    max_chunk_size_tokens: Annotated[int, Field(ge=100, le=4096)]
    chunk_overlap_tokens: Annotated[int, Field(ge=0, le=2048)]

    @model_validator(mode="after")
    def _overlap_is_at_most_half(self) -> "StaticChunking":
        if self.chunk_overlap_tokens * 2 > self.max_chunk_size_tokens:
            limit = self.max_chunk_size_tokens // 2
            message = (
                "Invalid '{param}': integer above maximum value. "
                f"Expected a value <= {limit}, but got {self.chunk_overlap_tokens} instead."
            )
            raise refusal(message, code="integer_above_max_value", at=("chunk_overlap_tokens",))
        return self


class AutoStrategy(Part):
    """Chunk sizes are the server's choice."""

    type: Literal["auto"]


class StaticStrategy(Part):
    """Chunk sizes are the client's choice."""

    type: Literal["static"]
    static: StaticChunking


ChunkingStrategy = Annotated[
    Annotated[AutoStrategy, Tag(f"{MARK}auto")] | Annotated[StaticStrategy, Tag(f"{MARK}static")], BY_TYPE
]


class NewVectorStore(Part):
    """A vector store to be created on the way."""

    file_ids: Annotated[list[Text], Field(max_length=10_000, fail_fast=True)] = Field(default_factory=list)
    chunking_strategy: ChunkingStrategy | None = None
    metadata: Metadata = Field(default_factory=dict)


class FileSearchResources(FileSearchOverride):
    """The vector store to search, existing or to be created."""

    vector_stores: Annotated[list[NewVectorStore], Field(max_length=1, fail_fast=True)] | None = Field(
        default=None, exclude=True
    )
    """What to create; never stored or shown: what was created is among the ids."""

    @model_validator(mode="after")
    def _one_way_only(self) -> "FileSearchResources":
        if self.vector_store_ids and self.vector_stores is not None:
            raise refusal("Invalid '{param}': 'vector_store_ids' and 'vector_stores' are mutually exclusive.")
        return self


class ToolResourcesOverride(Part):
    """What tools work on, where no vector store can be created on the way."""

    code_interpreter: CodeInterpreterResources | None = None
    file_search: FileSearchOverride | None = None


class ToolResources(Part):
    """What tools work on."""

    code_interpreter: CodeInterpreterResources | None = None
    file_search: FileSearchResources | None = None
