"""The wire's types for the OpenAPI document: the official client's own, widened to what was really on the wire.

Nothing is built from them at run time (`objects` does that, as plain JSON); the tests check every body against them.
"""

from typing import Any, Generic, Literal, TypeVar, get_args

from openai.types import FileDeleted as OpenAIFileDeleted
from openai.types import FileObject, beta, upload
from openai.types import model as openai_model
from openai.types.beta import threads
from openai.types.beta.threads import runs
from openai.types.uploads import UploadPart as OpenAIUploadPart
from pydantic import BaseModel, Field

from orchestrator.errors import RunErrorCode

Item = TypeVar("Item")


class CachedTokens(BaseModel):
    """Tokens of the prompt that came from the model server's cache."""

    cached_tokens: int


class ReasoningTokens(BaseModel):
    """Tokens of the completion that were spent on reasoning."""

    reasoning_tokens: int


class Usage(BaseModel):
    """Tokens used; null until it is known."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_token_details: CachedTokens
    completion_tokens_details: ReasoningTokens


class Assistant(beta.Assistant):
    """A model with instructions and tools."""

    reasoning_effort: str | None = None


class Thread(beta.Thread):
    """A conversation."""

    on_active_run: Literal["enqueue", "interrupt"] | None = Field(
        default=None, description="An extension: what happens to a run that is created while another is active."
    )


class Message(threads.Message):
    """What a user or an assistant said."""


class LastError(BaseModel):
    """Why a run failed."""

    code: RunErrorCode
    message: str


class Run(threads.Run):
    """One execution of an assistant on a thread."""

    last_error: LastError | None = None  # type: ignore[assignment]  # with a code that the specification lacks
    instructions: str | None = None  # type: ignore[assignment]  # the wire had null where the specification has text
    usage: Usage | None = None  # type: ignore[assignment]
    tool_resources: dict[str, Any] | None = None
    reasoning_effort: str | None = None


class RunStep(runs.RunStep):
    """One thing that a run did."""

    usage: Usage | None = None  # type: ignore[assignment]
    expires_at: int | None = None


class File(FileObject):
    """Bytes under a name."""

    purpose: Literal[  # type: ignore[assignment]  # the original took `evals`, though its type lacks it
        "assistants",
        "assistants_output",
        "batch",
        "batch_output",
        "evals",
        "fine-tune",
        "fine-tune-results",
        "user_data",
        "vision",
    ]


class FileDeleted(OpenAIFileDeleted):
    """What is left of a deleted file."""


class Upload(upload.Upload):
    """A file that arrives in parts."""

    file: File | None = None


class UploadPart(OpenAIUploadPart):
    """One of the parts."""


class Model(openai_model.Model):
    """A model that assistants can use. The model server may say more of it."""


class Models(BaseModel):
    """All of them."""

    object: Literal["list"]
    data: list[Model]


class Deleted(BaseModel):
    """What is left of a deleted object."""

    id: str
    object: Literal["assistant.deleted", "thread.deleted", "thread.message.deleted", "model"]
    deleted: bool


class Page(BaseModel, Generic[Item]):
    """A page of a list."""

    object: Literal["list"]
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool


def _named() -> list[str]:
    """The events that the official client knows."""
    members = get_args(get_args(beta.AssistantStreamEvent)[0])
    return [name for member in members for name in get_args(member.model_fields["event"].annotation)]


ANSWERS: tuple[type[BaseModel], ...] = (
    *(Assistant, Thread, Message, Run, RunStep, File, FileDeleted, Upload, UploadPart, Model, Models, Deleted),
    *(Page[Assistant], Page[Thread], Page[Message], Page[Run], Page[RunStep], Page[File]),
)
"""All that operations answer with, as `api.document` names it."""
EVENT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "description": "Where to go on from: send it as `Last-Event-ID`."},
        "event": {"enum": [*_named(), "done"]},
        "data": {"type": "string", "description": "The object, or what is new in it, as JSON; `[DONE]` at the end."},
    },
    "required": ["event", "data"],
    "additionalProperties": False,
}
"""One server-sent event."""
