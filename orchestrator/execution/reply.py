"""A reply while it is heard: what has been said so far, and where it is being written down."""

from dataclasses import dataclass, field

from orchestrator.foreign import Json
from orchestrator.model import Finished, FinishReason, Usage
from orchestrator.tables import Message, RunStep
from orchestrator.wire import objects


@dataclass(slots=True)
class OpenCall:
    """A tool call of which fragments still arrive."""

    id: str
    name: str
    arguments: list[str] = field(default_factory=list)

    def wire(self) -> Json:
        """The call in the shape of a run step; nobody has answered it yet."""
        function = {"name": self.name, "arguments": "".join(self.arguments), "output": None}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(slots=True)
class Reply:
    """What the model has said in this turn. `message` and `step` are open in the journal while they are not None."""

    message: Message | None = None
    step: RunStep | None = None
    text: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    calls: list[OpenCall] = field(default_factory=list)
    finished: Finished | None = None

    def content(self) -> list[Json]:
        """The message's content parts so far, in the order in which clients were told of them: text, then refusal."""
        parts: list[Json] = [objects.text_part("".join(self.text))] if self.text else []
        return [*parts, {"type": "refusal", "refusal": "".join(self.refusal)}] if self.refusal else parts

    @property
    def unsaid(self) -> tuple[str, str] | None:
        """The ids of the message and of its step if they are open although nothing was said."""
        if self.message is None or self.step is None or self.calls or self.content():
            return None
        return self.message.id, self.step.id

    @property
    def reason(self) -> FinishReason:
        """Why it has ended."""
        return self.finished.reason if self.finished else "stop"

    @property
    def usage(self) -> Usage:
        """What the turn cost; nothing while it is not over."""
        return self.finished.usage if self.finished else Usage()
