"""The seam to language models: what the run loop asks, and what it hears while the answer arrives.

    Prompt ──▶ Model.stream ──▶ [TextDelta | RefusalDelta | ToolCallDelta, …]  […]  […, Finished]

A stream gives what has come at once as one list: when a model is fast, or we are slow, many tokens are one step of the
program. An empty list says that the model has begun to answer, and that its first word may take a while; it may come
again, or never. No I/O here. Implementations (`orchestrator.openai_model`; wrappers with fallbacks or limits) keep
these promises:

- a list that is empty comes before all others;
- exactly one `Finished`, and it is the last of the last list, or the stream raises `RunFailure`;
- a tool call's `id` and `name` are set on the first fragment of its `index` and nowhere else; indexes are 0, 1, 2, …
  in the order in which the calls appear;
- no text and no arguments carry U+0000 or an unpaired surrogate, which Postgres refuses.

A model may tell a prompt's `ear` of text instead of giving it as deltas: only text, in its place among the deltas, only
while somebody waits for the next list, and never again once that wait was cancelled. What the ear refuses is given as
deltas. It saves waking the task for each token, which costs more than the token; an ear is no duty, nor is its use.

Leaving the stream early (`aclose()`, or the task is cancelled) aborts the request upstream at once. Python closes an
`async for` that is left by `break` or by an exception only when the garbage collector comes by, so use `aclosing`.
"""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from orchestrator.foreign import Json

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(slots=True)  # not frozen: there is one for each token, and a frozen one costs twice as much
class TextDelta:
    """A piece of the answer's text, never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class RefusalDelta:
    """A piece of the text with which the model declines, never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call. The `arguments` of all pieces of an `index`, joined, are the call's arguments."""

    index: int
    id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the upstream counted them: cached ones are part of the prompt's, reasoning ones of the completion's."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a reply. `usage` is zeros if the upstream reported none; `request_id` is the upstream's, for logs."""

    reason: FinishReason
    usage: Usage
    request_id: str | None


Delta: TypeAlias = TextDelta | RefusalDelta | ToolCallDelta | Finished

Ear: TypeAlias = Callable[[str], bool]
"""Is told a piece of text, and says whether it has taken it."""


@dataclass(slots=True)  # not frozen: an ear is lent to it, and a copy would cost several times as much
class Prompt:
    """One question to a model, in the shapes of `POST /chat/completions`. None, or an empty list, is not sent.

    `deadline` (of the loop's clock) is not sent either: after that nobody wants the answer any more. Nor is the `ear`.
    """

    model: str
    messages: list[Json]
    tools: list[Json]
    tool_choice: Json | None = None
    temperature: float | None = None
    top_p: float | None = None
    response_format: Json | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    max_completion_tokens: int | None = None
    deadline: float | None = None
    ear: Ear | None = field(default=None, compare=False, repr=False)


class Model(Protocol):
    """Whatever answers prompts."""

    def stream(self, prompt: Prompt) -> AsyncGenerator[list[Delta], None]:
        """Ask, and hear the answer as it comes. Raises `RunFailure` when there will be none."""
        ...

    async def models(self) -> list[Json]:
        """The models on offer, as objects of `GET /models`. Raises `Unavailable` when nobody answers."""
        ...

    async def retrieve(self, model_id: str) -> Json | None:
        """One of them, or None if there is no such model."""
        ...
