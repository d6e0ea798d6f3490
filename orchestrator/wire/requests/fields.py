"""The bricks of request bodies: text that Postgres can hold, bounded metadata, ids with their prefix, free-form JSON.

Never use a bare `str` in a body: U+0000 passes it and fails in the database, as a 500. `Text` refuses it. Errors that
pydantic has no word for are raised through `refusal()`; `api/error_texts.py` turns all of them into the original's
sentences. Types are strict: `"1"` is no number, `true` no integer, but an integer will do where a decimal is expected.
"""

import math
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, model_validator
from pydantic_core import PydanticCustomError, PydanticKnownError

from orchestrator import ids
from orchestrator.foreign import Json
from orchestrator.wire import unsupported

MAX_INT = 2**31 - 1
MAX_JSON_INT = 2**64 - 1
MIN_JSON_INT = -(2**63)
MAX_JSON_DEPTH = 64
MARK = "\0"
"""Begins the tags of our unions. No key of a valid body can contain it, so error paths can tell a tag from a key."""
TEXT = f"{MARK}=text"
"""The tag of a union's string form. Tags of objects are their types (`|` between several); `=` says that it is none."""
MAX_KEYS = 64


class Strict(BaseModel):
    """Refuses unknown keys and never converts a type."""

    model_config = ConfigDict(extra="forbid", strict=True, serialize_by_alias=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _refuse_floods(cls, value: Json) -> Json:
        """One error for very many unknown keys: pydantic would make one of each, a gigabyte for the largest body."""
        if isinstance(value, dict) and len(value) > MAX_KEYS:
            known = {field.alias or name for name, field in cls.model_fields.items()}
            stranger = next(key for key in value if key not in known)
            raise refusal("Unknown parameter: '{param}'.", code="unknown_parameter", at=(stranger,))
        return value


class Part(Strict):
    """A piece of a body. `always` names the defaults that the original shows on read even if the client sent nothing.

    Those count as set, so `model_dump(exclude_unset=True)` of any body or part yields what is to be stored.
    """

    always: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="after")
    def _materialise(self) -> Self:
        self.__pydantic_fields_set__.update(self.always)
        return self


class Body(Strict):
    """A whole request body. `model_dump(exclude_unset=True)` is what the client sent, parts in their stored form."""

    @model_validator(mode="after")
    def _refuse_what_is_not_there_yet(self) -> Self:
        found = unsupported.first(self)
        if found is not None:
            raise refusal(found.message, code=found.code, at=found.at)
        return self


def refusal(message: str, *, code: str | None = "invalid_value", at: tuple[str | int, ...] = ()) -> PydanticCustomError:
    """An error for a validator to raise. `{param}` in the text becomes the full path; `at` is added to the path."""
    return PydanticCustomError("refused", "{message}", {"message": message, "code": code, "at": at})


def variant(value: Json) -> str | None:
    """Discriminates objects by their `type`, whether still JSON or already parsed."""
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"{MARK}{kind}" if isinstance(kind, str) else None


BY_TYPE = Discriminator(variant)


def _storable(value: str) -> str:
    problem = text_problem(value)
    if problem is not None:
        raise refusal(f"Invalid '{{param}}': {problem}")
    return value


def text_problem(value: str) -> str | None:
    """Why Postgres could not hold this text, or None if it can."""
    if "\0" in value:
        return "the string contains the character U+0000, which cannot be stored."
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        return "the string contains an unpaired surrogate, which is not valid Unicode."
    return None


STORABLE = AfterValidator(_storable)
"""Behind the bounds of a text; `Text` is one without bounds."""
Text = Annotated[str, STORABLE]
ModelName = Annotated[str, Field(min_length=1, max_length=256), STORABLE]
Instructions = Annotated[str, Field(max_length=256_000), STORABLE]
Tokens = Annotated[int, Field(ge=256, le=MAX_INT)]
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
TopP = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]

_Key = Annotated[str, Field(max_length=64), STORABLE]
_Value = Annotated[str, Field(max_length=512), STORABLE]


MAX_PAIRS = 16


def _pairs(value: Json) -> Json:
    """Null is `{}`; the count comes before the pairs, or a flood of wrong pairs would make a flood of errors."""
    if isinstance(value, dict) and len(value) > MAX_PAIRS:
        raise PydanticKnownError(
            "too_long", {"field_type": "Dictionary", "max_length": MAX_PAIRS, "actual_length": len(value)}
        )
    return {} if value is None else value


Metadata = Annotated[
    dict[_Key, _Value],
    Field(max_length=MAX_PAIRS),
    BeforeValidator(_pairs, json_schema_input_type=dict[_Key, _Value] | None),
]
"""At most 16 pairs of texts; null is read as `{}`."""


def _assistant(value: str) -> str:
    message = ids.complaint("{param}", "asst_", value)
    if message is not None:
        raise refusal(message)
    return value


AssistantId = Annotated[Text, AfterValidator(_assistant)]


def _json(value: dict[str, Json]) -> dict[str, Json]:
    problem = json_problem(value)
    if problem is not None:
        raise refusal(f"Invalid '{{param}}': {problem}")
    return value


def json_problem(value: Json) -> str | None:
    """Why this JSON cannot be stored and passed on: too deep, not Unicode, or numbers that others cannot read."""
    waiting: list[tuple[Json, int]] = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if depth > MAX_JSON_DEPTH:
            return f"too deeply nested. Expected at most {MAX_JSON_DEPTH} levels."
        problem = _leaf_problem(item)
        if problem is not None:
            return problem
        if isinstance(item, dict):
            waiting.extend((key, depth) for key in item)
            waiting.extend((child, depth + 1) for child in item.values())
        elif isinstance(item, list):
            waiting.extend((child, depth + 1) for child in item)
    return None


def _leaf_problem(item: Json) -> str | None:
    if isinstance(item, str):
        return text_problem(item)
    if isinstance(item, float) and not math.isfinite(item):
        return "NaN and Infinity are not JSON numbers."
    if isinstance(item, int) and not MIN_JSON_INT <= item <= MAX_JSON_INT:
        return "integer out of range. Expected a value that fits into 64 bits."
    return None


JsonObject = Annotated[dict[str, Json], AfterValidator(_json)]
"""Free-form JSON, such as a schema: stored as it came, once it is known that it can be."""
