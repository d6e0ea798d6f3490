"""Strict request bodies of assistants, threads, messages and runs, and the queries of their lists.

Verbs read attributes, or `body.model_dump(exclude_unset=True)`: what the client sent, with parts (tools, content,
strategies) in the form in which they are stored, defaults that the original shows on read included. Never dump without
`exclude_unset`: it would turn "not sent" into null. `metadata: null` is read as `{}`.
"""

from orchestrator.wire.requests.assistants import CreateAssistant, ModifyAssistant
from orchestrator.wire.requests.fields import Body, JsonObject, Metadata, Part, Text
from orchestrator.wire.requests.files import CompleteUpload, CreateFile, CreateUpload, ExpiresAfter
from orchestrator.wire.requests.formats import (
    JsonObjectFormat,
    JsonSchemaFormat,
    ReasoningEffort,
    ResponseFormat,
    TextFormat,
)
from orchestrator.wire.requests.lists import (
    IncludeQuery,
    ListFilesQuery,
    ListMessagesQuery,
    ListQuery,
    ListRunStepsQuery,
    ListThreadsQuery,
    WaitQuery,
)
from orchestrator.wire.requests.messages import (
    Attachment,
    ContentPart,
    CreateMessage,
    ImageFilePart,
    ImageUrlPart,
    ModifyMessage,
    TextPart,
)
from orchestrator.wire.requests.runs import (
    CreateRun,
    CreateThreadAndRun,
    ModifyRun,
    SubmitToolOutputs,
    ToolOutput,
    TruncationStrategy,
)
from orchestrator.wire.requests.threads import MAX_INITIAL_MESSAGES, CreateThread, ModifyThread
from orchestrator.wire.requests.tools import (
    CodeInterpreterTool,
    FileSearchTool,
    FunctionChoice,
    FunctionDefinition,
    FunctionTool,
    HostedChoice,
    Tool,
    ToolChoice,
    ToolResources,
    ToolResourcesOverride,
)

__all__ = [
    "MAX_INITIAL_MESSAGES",
    "Attachment",
    "Body",
    "CodeInterpreterTool",
    "CompleteUpload",
    "ContentPart",
    "CreateAssistant",
    "CreateFile",
    "CreateMessage",
    "CreateRun",
    "CreateThread",
    "CreateThreadAndRun",
    "CreateUpload",
    "ExpiresAfter",
    "FileSearchTool",
    "FunctionChoice",
    "FunctionDefinition",
    "FunctionTool",
    "HostedChoice",
    "ImageFilePart",
    "ImageUrlPart",
    "IncludeQuery",
    "JsonObject",
    "JsonObjectFormat",
    "JsonSchemaFormat",
    "ListFilesQuery",
    "ListMessagesQuery",
    "ListQuery",
    "ListRunStepsQuery",
    "ListThreadsQuery",
    "Metadata",
    "ModifyAssistant",
    "ModifyMessage",
    "ModifyRun",
    "ModifyThread",
    "Part",
    "ReasoningEffort",
    "ResponseFormat",
    "SubmitToolOutputs",
    "Text",
    "TextFormat",
    "TextPart",
    "Tool",
    "ToolChoice",
    "ToolOutput",
    "ToolResources",
    "ToolResourcesOverride",
    "TruncationStrategy",
    "WaitQuery",
]
