"""Loaded by schemathesis: puts real ids where it has generated words, so that requests get past the first look-up.

Which ids, follows from the generated case alone, so a run can be repeated. Whatever was made wrong on purpose stays
wrong; and of what is right, one in eight keeps its word, because ids of nothing are part of the game.
"""

import json
import os
import zlib
from pathlib import Path
from typing import Any

import schemathesis
from schemathesis import Case, GenerationMode, HookContext, Response
from schemathesis.core import NOT_SET
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.core.parameters import ParameterLocation

from tests.fuzz.supply import PATH, Ids, Supply

SUPPLY: Supply = json.loads(Path(os.environ[PATH]).read_text())
LISTED = {
    "assistants": "assistant_id",
    "messages": "message_id",
    "runs": "run_id",
    "steps": "step_id",
    "files": "file_id",
    "threads": "thread_id",
}
"""What the cursors of a list are ids of."""
MAY_BE_EMPTY = ("/v1/threads",)
PLAIN: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/embeddings": {"input": "Hi"},
}
"""What has a form of its own that our document leaves to the model server."""
KEPT = 8


@schemathesis.hook
def before_call(_context: HookContext, case: "Case[Any]", _kwargs: dict[str, Any]) -> None:
    """Replace what names an object."""
    number = zlib.crc32(repr((case.path, case.path_parameters, case.query, case.body)).encode())
    ids = _ids(case, number)
    if number % KEPT and _right(case, ParameterLocation.PATH):
        case.path_parameters = {name: ids[name] for name in case.path_parameters}
    if number % KEPT and _right(case, ParameterLocation.QUERY):
        listed = LISTED.get(case.path.rpartition("/")[2], "")
        named = {**ids, "after": ids.get(listed), "before": ids.get(listed)}
        case.query = {name: named.get(name) or value for name, value in case.query.items()}
    if isinstance(case.body, dict | list) and _right(case, ParameterLocation.BODY):
        case.body = _named({**case.body, **PLAIN.get(case.path, {})} if isinstance(case.body, dict) else case.body, ids)


@schemathesis.hook
def filter_failure(_context: HookContext, failure: Failure, case: "Case[Any]", _response: Response) -> bool:
    """Two bodies are not wrong that schemathesis takes for wrong: one that is documented as null or missing, and a
    number as a file, which is bytes like any other.
    """
    empty = (case.body is None or case.body is NOT_SET) and case.path in MAY_BE_EMPTY
    return not (isinstance(failure, AcceptedNegativeData) and (empty or case.media_type == "multipart/form-data"))


def _ids(case: "Case[Any]", number: int) -> Ids:
    """Ids that belong together; an operation that uses its object up gets new ones as long as there are any."""
    scenes = SUPPLY["scenes"]
    scene = scenes[number // KEPT % len(scenes)]
    unused = SUPPLY["expendable"].get(f"{case.method} {case.path}")
    if not unused or not case.meta or case.meta.generation.mode != GenerationMode.POSITIVE:
        return scene
    return {**scene, **(unused.pop() if len(unused) > 1 else unused[0])}


def _right(case: "Case[Any]", where: ParameterLocation) -> bool:
    component = case.meta and case.meta.components.get(where)
    return bool(component and component.mode == GenerationMode.POSITIVE)


def _named(value: Any, ids: Ids) -> Any:
    """A body with real ids under the names of ids; what clients may choose freely stays as it is."""
    if isinstance(value, list):
        return [_named(item, ids) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: _real(name, item, ids) for name, item in value.items()}


def _real(name: str, item: Any, ids: Ids) -> Any:
    if name == "tool_outputs" and isinstance(item, list):
        return [_named(each, ids) for each in item[:1]]  # the scenes' runs wait for one
    if name in ids and isinstance(item, str):
        return ids[name]
    if name.removesuffix("s") in ids and item and isinstance(item, list):
        return [ids[name.removesuffix("s")]]
    return _named(item, ids)
