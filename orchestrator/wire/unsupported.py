"""What the contract allows and this server cannot do yet: refused with a clear text, never accepted and ignored.

Every request body asks `first()` once it is otherwise valid, so a wrong body gets the contract's error and a right one
this refusal. When a feature arrives, its function leaves `CHECKS` and nothing else changes: bodies parse it already.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from pydantic import BaseModel

from orchestrator.foreign import Json

HOSTED_TOOLS = frozenset({"code_interpreter", "file_search"})


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refused use: where it stands in the body, what is refused, and the code that clients can match."""

    at: tuple[str | int, ...]
    what: str
    code: str

    @property
    def message(self) -> str:
        """The sentence told to the client."""
        return f"{self.what} not supported by this server yet."


def family(path: str) -> str:
    """What to add to the 404 of a path that the original has and this server does not have yet; or nothing."""
    is_stores = path.startswith("/v1/vector_stores")
    return ". " + Refusal((), "Vector stores are", "unknown_url").message if is_stores else ""


def first(body: BaseModel) -> Refusal | None:
    """The first use in this body of something that the server cannot do yet."""
    for field, check in _checks(type(body)):
        given = getattr(body, field)
        if given is not None:
            for found in check(given):
                return found
    return None


@cache
def _checks(kind: type[BaseModel]) -> "tuple[tuple[str, Check], ...]":
    """The checks of the fields that bodies of this kind have: to ask a body for one that it has not is slow."""
    return tuple((field, check) for field, check in CHECKS.items() if field in kind.model_fields)


def _tools(tools: Json) -> Iterator[Refusal]:
    for index, tool in enumerate(tools):
        if tool.type in HOSTED_TOOLS:
            yield Refusal(("tools", index, "type"), f"The '{tool.type}' tool is", "unsupported_tool")


def _tool_choice(choice: Json) -> Iterator[Refusal]:
    kind = getattr(choice, "type", None)
    if kind in HOSTED_TOOLS:
        yield Refusal(("tool_choice", "type"), f"The '{kind}' tool is", "unsupported_tool")


def _tool_resources(resources: Json) -> Iterator[Refusal]:
    if resources.code_interpreter is not None and resources.code_interpreter.file_ids:
        at: tuple[str, ...] = ("tool_resources", "code_interpreter", "file_ids")
        yield Refusal(at, "The 'code_interpreter' tool is", "unsupported_tool_resources")
    for name in ("vector_store_ids", "vector_stores"):
        if getattr(resources.file_search, name, None):
            at = ("tool_resources", "file_search", name)
            yield Refusal(at, "Vector stores are", "unsupported_tool_resources")


def _attachments(attachments: Json) -> Iterator[Refusal]:
    """A file can be attached; the tools that would read it are not there yet."""
    for place, attachment in enumerate(attachments):
        for index, tool in enumerate(attachment.tools or []):
            yield Refusal(
                ("attachments", place, "tools", index, "type"), f"The '{tool.type}' tool is", "unsupported_tool"
            )


Check = Callable[[Json], Iterator[Refusal]]

CHECKS: dict[str, Check] = {
    "tools": _tools,
    "tool_choice": _tool_choice,
    "tool_resources": _tool_resources,
    "attachments": _attachments,
}
"""By the field of a body that they look at."""
