"""Functions: described by the client, called by the model, answered by the client."""

from orchestrator.foreign import Json
from orchestrator.tools import ToolCall


class Function:
    """A function tool of an assistant or a run, in the wire's shape `{"type": "function", "function": {…}}`."""

    clients = True

    def __init__(self, definition: Json) -> None:
        self.name: str = definition["function"]["name"]
        self._definition = definition

    def offer(self) -> Json:
        """The definition, which has the same shape in a chat completion."""
        return self._definition

    async def answer(self, call: ToolCall) -> str | None:
        """Always None: only the client can run its function."""
        return None
