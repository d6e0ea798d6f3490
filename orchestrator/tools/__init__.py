"""Tools: what is offered to the model, and who answers when it calls.

A `Tool` offers and may answer. One that does not answer (a function) is the client's: the run waits in
`requires_action`. Wire types map to tools in `registry`; a later kind is one file and one line there. A tool that fails
tells the model; it does not end the run. Neither does a call of a tool that the run does not have: the client, which
does not know it either, is never asked; the model is told, and goes on, unless it keeps inventing.
"""

from dataclasses import dataclass
from typing import Protocol

import structlog

from orchestrator.errors import RunFailure
from orchestrator.foreign import Json

log = structlog.get_logger(__name__)

MAX_INVENTED = 10
"""Calls of tools that a run does not have; one more ends it."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call as the model asked for it; `arguments` is the model's JSON text, not checked by anybody yet."""

    id: str
    name: str
    arguments: str


class Tool(Protocol):
    """One tool of a run."""

    name: str
    clients: bool
    """Whether all its calls are left to the client."""

    def offer(self) -> Json:
        """What the model is told of it: an entry of `tools` in a chat completion."""
        ...

    async def answer(self, call: ToolCall) -> str | None:
        """The call's output for the model, or None if the client has to give it."""
        ...


class Toolbox:
    """The tools of one run, by the names under which the model calls them."""

    def __init__(self, tools: list[Tool]) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._invented = 0

    def offers(self) -> list[Json]:
        """Every tool as the model is told of it."""
        return [tool.offer() for tool in self._tools.values()]

    def leaves(self, names: list[str]) -> bool:
        """Whether calls of these tools are all left to the client."""
        return all(name in self._tools and self._tools[name].clients for name in names)

    async def answer(self, call: ToolCall) -> str | None:
        """The output of a call, or None if the client has to give it. What fails tells the model so.

        Raises RunFailure when the model calls again and again what is not there.
        """
        tool = self._tools.get(call.name)
        if tool is None:
            return self._unknown(call)
        try:
            return await tool.answer(call)
        except Exception:
            log.exception("tool_failed", tool=call.name)
            return f"Error: the tool {call.name!r} failed."

    def _unknown(self, call: ToolCall) -> str:
        self._invented += 1
        log.warning("tool_invented", times=self._invented)
        if self._invented > MAX_INVENTED:
            raise RunFailure("server_error", "The model keeps calling tools that this run does not have.")
        known = ", ".join(sorted(self._tools)) or "none"
        return f"Error: there is no tool named {call.name!r}. Tools: {known}."
