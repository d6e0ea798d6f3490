"""A conversation as it is put to a small model: what was said before, what is asked now, which results are in.

Chat templates for tool calls confuse models of this size (they answer 3 of 9 questions from results, and repeat the
call in the others), so calls and results never reach the model as such: results of the turn in hand are told in words,
those of earlier turns are in the answers that followed from them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from orchestrator.embedded.model.requests import AssistantMessage, Instructions, Message, ToolMessage, UserMessage
from orchestrator.foreign import Json


@dataclass(frozen=True)
class Result:
    """A function that was called in this turn, and what it returned."""

    function: str
    arguments: str
    output: str

    @property
    def failed(self) -> bool:
        """Whether the output says that it failed, in the way most functions say so."""
        output = load(self.output)
        return isinstance(output, dict) and bool(output.get("error"))

    def told(self) -> str:
        """The call and its output in one line: `get_weather(city="Paris") = 18 °C`, or `… failed: no such city`."""
        arguments = load(self.arguments)
        told = self.arguments
        if isinstance(arguments, dict):
            told = ", ".join(f"{name}={orjson.dumps(value).decode()}" for name, value in arguments.items())
        if self.failed:
            return f"{self.function}({told}) failed: {load(self.output)['error']}"
        return f"{self.function}({told}) = {self.output}"


@dataclass(frozen=True)
class Dialogue:
    """`earlier` holds (role, text) of the turns before; `message` is all that the user said since the last answer."""

    instructions: str
    earlier: list[tuple[str, str]]
    message: str
    results: list[Result]

    def has_answer_to(self, function: str, arguments: str) -> bool:
        """Whether this very call was answered in this turn."""
        wanted = load(arguments)
        return any(result.function == function and load(result.arguments) == wanted for result in self.results)


def read(messages: list[Message]) -> Dialogue:
    """The dialogue that `messages` tell."""
    instructions = [text_of(message) for message in messages if isinstance(message, Instructions)]
    spoken = [message for message in messages if not isinstance(message, Instructions)]
    answers = [index for index, message in enumerate(spoken) if _is_answer(message)]
    start = answers[-1] + 1 if answers else 0
    earlier: list[tuple[str, str]] = [
        (message.role, text)
        for message in spoken[:start]
        if isinstance(message, UserMessage | AssistantMessage) and (text := text_of(message))
    ]
    said = [text_of(message) for message in spoken[start:] if isinstance(message, UserMessage)]
    return Dialogue("\n\n".join(instructions), earlier, "\n\n".join(said), _results(spoken[start:]))


def text_of(message: Message) -> str:
    """All text of a message."""
    content = message.content
    if isinstance(content, str):
        return content
    return "\n".join(part.text if part.type == "text" else part.refusal for part in content or [])


def load(text: str) -> Json:
    """The JSON value that `text` is, or the text itself."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _is_answer(message: Message) -> bool:
    return isinstance(message, AssistantMessage) and not message.tool_calls


def _results(messages: Sequence[Message]) -> list[Result]:
    made = {
        call.id: call.function
        for message in messages
        if isinstance(message, AssistantMessage)
        for call in message.tool_calls or []
    }
    return [
        Result(call.name if call else "function", call.arguments if call else "", text_of(message))
        for message in messages
        if isinstance(message, ToolMessage)
        for call in [made.get(message.tool_call_id)]
    ]
