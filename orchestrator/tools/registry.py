"""Which tool stands behind which wire type."""

from collections.abc import Callable

from orchestrator.errors import RunFailure
from orchestrator.foreign import Json
from orchestrator.tools import Tool, Toolbox
from orchestrator.tools.function import Function

TOOLS: dict[str, Callable[[Json], Tool]] = {"function": Function}


def toolbox(definitions: list[Json]) -> Toolbox:
    """The tools of a run, from its wire definitions. Raises RunFailure for a type that this release does not know, and
    for what is no definition.
    """
    try:
        for definition in definitions:
            if definition["type"] not in TOOLS:
                raise RunFailure("server_error", f"This server has no tool of type {definition['type']!r}.")
        return Toolbox([TOOLS[definition["type"]](definition) for definition in definitions])
    except (KeyError, TypeError, AttributeError) as unreadable:
        raise RunFailure("server_error", "The run's tools cannot be read.") from unreadable
