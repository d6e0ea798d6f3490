"""JSON schemas as the grammar of constrained decoding can take them.

llama.cpp's converter refuses some keywords and takes others literally at a high price (a `maxLength` of 100,000 becomes
a rule of that length). So schemas of functions are reduced to what shapes an argument: types, properties, choices and
small bounds. References are written out; recursive ones end after a few levels.
"""

from collections.abc import Iterable
from typing import Literal

from orchestrator.embedded.model.requests import Function
from orchestrator.foreign import Json

DEEPEST = 8
LARGEST_BOUND = 64
MOST_CALLS = 4

ANY: Json = {}
NO_ARGUMENTS: Json = {"type": "object", "properties": {}, "additionalProperties": False}
SOME_OBJECT: Json = {"type": "object"}

KEPT = ("type", "enum", "const")
BOUNDS = ("minItems", "maxItems", "minLength", "maxLength")
RANGES = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
FORMATS = ("date", "time", "date-time", "uuid")

Detail = Literal["full", "generic"]


def calls_schema(functions: Iterable[Function], least: int, most: int, detail: Detail = "full") -> Json:
    """The schema of `{"calls": [{"function": …, "arguments": {…}}, …]}` over `functions`."""
    calls = [
        _object({"function": {"const": function.name}, "arguments": arguments_schema(function, detail)})
        for function in functions
    ]
    return _object({"calls": {"type": "array", "items": {"anyOf": calls}, "minItems": least, "maxItems": most}})


def arguments_schema(function: Function, detail: Detail = "full") -> Json:
    """The schema of a function's arguments. A function without parameters takes none."""
    if not function.parameters:
        return NO_ARGUMENTS
    schema = simplify(function.parameters) if detail == "full" else SOME_OBJECT
    return schema if schema.get("type") == "object" else SOME_OBJECT


def simplify(schema: Json, root: Json | None = None, depth: int = 0) -> Json:
    """`schema`, reduced to what the grammar is good at. What cannot be expressed becomes wider, never narrower."""
    root = schema if root is None else root
    if not isinstance(schema, dict) or depth > DEEPEST:
        return ANY
    if "$ref" in schema:
        return simplify(_resolve(schema["$ref"], root), root, depth + 1)
    if "allOf" in schema:
        return simplify(_merge(schema, root), root, depth + 1)
    for union in ("anyOf", "oneOf"):
        if schema.get(union):
            return {"anyOf": [simplify(option, root, depth + 1) for option in schema[union]]}
    plain = {key: schema[key] for key in KEPT if key in schema} | _bounds(schema)
    if "properties" in schema or schema.get("type") == "object":
        return plain | _properties(schema, root, depth)
    if isinstance(schema.get("items"), dict):
        plain["items"] = simplify(schema["items"], root, depth + 1)
    return plain


def _properties(schema: Json, root: Json, depth: int) -> Json:
    if not isinstance(schema.get("properties"), dict):
        values = schema.get("additionalProperties")
        wide = {"additionalProperties": simplify(values, root, depth + 1)} if isinstance(values, dict) else {}
        return {"type": "object"} | wide
    properties = {name: simplify(value, root, depth + 1) for name, value in schema["properties"].items()}
    required = [name for name in schema.get("required") or [] if name in properties]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _bounds(schema: Json) -> Json:
    kept = {key: schema[key] for key in BOUNDS if isinstance(schema.get(key), int) and schema[key] <= LARGEST_BOUND}
    if schema.get("type") == "integer":
        kept |= {key: schema[key] for key in RANGES if isinstance(schema.get(key), int)}
    if schema.get("format") in FORMATS:
        kept["format"] = schema["format"]
    return kept


def _merge(schema: Json, root: Json) -> Json:
    """One object of all that `allOf` asks for."""
    merged: Json = {key: value for key, value in schema.items() if key != "allOf"}
    for option in schema["allOf"]:
        part = _resolve(option["$ref"], root) if isinstance(option, dict) and "$ref" in option else option
        for key, value in (part if isinstance(part, dict) else {}).items():
            if key == "properties":
                merged[key] = merged.get(key, {}) | value
            elif key == "required":
                merged[key] = [*merged.get(key, []), *value]
            else:
                merged.setdefault(key, value)
    return merged


def _resolve(reference: Json, root: Json) -> Json:
    """What a local reference points to, or anything when it points nowhere."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return ANY
    found = root
    for step in reference.lstrip("#").strip("/").split("/") if reference != "#" else []:
        found = found.get(step.replace("~1", "/").replace("~0", "~"), ANY) if isinstance(found, dict) else ANY
    return found


def _object(properties: dict[str, Json]) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
