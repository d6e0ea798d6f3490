"""Whether a body is exactly what the official client's own types say: every key there, of its type, and no other.

The client reads answers without looking (`construct`), so its types alone prove nothing. Here they are applied
strictly: nothing is coerced, a key that no type knows is an error, and so is one that is missing, unless it stands
below. Types are those of `orchestrator.wire.schemas`, which widen the official ones just where the original's wire did;
what is wider is written down in test_strictness.py.
"""

import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel

MAY_LACK = {
    "FunctionDefinition": {"description"},
    "FunctionDelta": {"name", "output", "arguments"},
    "JSONSchema": {"description", "schema_", "strict"},
    "ImageURL": {"detail"},
    "ImageFile": {"detail"},
    "ToolResources": {"code_interpreter", "file_search"},
    "Thread": {"on_active_run"},  # our own, shown where it was set
}
"""Keys that need not be there: what a client sent without them is read back without them, deltas have parts only."""


OPEN = {"Model"}
"""Types of which somebody else may say more: the model server, of its models."""


def check_type(body: Any, model: type[BaseModel], *, partial: bool = False) -> None:
    """Hold a body against its type; a `partial` one (a delta) may lack whatever the type lets it lack."""
    more: Literal["allow", "forbid"] = "allow" if model.__name__ in OPEN else "forbid"
    found = model.model_validate_json(json.dumps(body), strict=True, extra=more)
    for path, part in _parts(found, model.__name__):
        absent = type(part).model_fields.keys() - part.model_fields_set - MAY_LACK.get(type(part).__name__, set())
        assert partial or not absent, f"{path} lacks {sorted(absent)}"


def _parts(value: Any, path: str) -> Iterator[tuple[str, BaseModel]]:
    if isinstance(value, BaseModel):
        yield path, value
        for name in value.model_fields_set & type(value).model_fields.keys():
            yield from _parts(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _parts(item, f"{path}[{place}]")
