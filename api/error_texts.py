"""What pydantic found wrong with a request, in the words of the original.

Clients match these texts and codes. One error is told: the first by its place in the client's document; what is missing
counts as standing at the end of its object. Values are repeated shortened, see `echo`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from orchestrator.echo import echo
from orchestrator.errors import InvalidRequest
from orchestrator.foreign import Json
from orchestrator.wire.requests.fields import MARK

NOT_JSON = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library "
    "correctly. This API expects a JSON payload, but what was sent was not valid JSON.)"
)
MAX_PARAM = 200
KEY = "[key]"
"""Pydantic's last step to an error in the key, not the value, of a mapping."""

Step = str | int
Told = tuple[str, str | None]

_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'")


@dataclass(frozen=True, slots=True)
class Fault:
    """One pydantic error: the path as the original writes it, the offending value, and pydantic's facts."""

    kind: str
    steps: tuple[Step, ...]
    value: Json
    facts: dict[str, Json] = field(default_factory=dict)
    in_key: bool = False
    plain: str = ""

    @property
    def param(self) -> str | None:
        """`tools[0].function.name`, or None for the body as a whole."""
        text = "".join(f"[{step}]" if isinstance(step, int) else f".{echo(step, 64)}" for step in self.steps)
        return echo(text.removeprefix("."), MAX_PARAM) or None

    @property
    def named(self) -> str:
        """The path as it stands in a sentence."""
        return "the request body" if self.param is None else f"'{self.param}'"

    def at(self, *steps: Step) -> "Fault":
        """The same error, told about something further down."""
        return Fault(self.kind, (*self.steps, *steps), self.value, self.facts)


def invalid_request(errors: Sequence[Json], body: Json) -> InvalidRequest:
    """The error to be told to the client, made of pydantic's list of errors and the parsed body."""
    fault = min((_fault(error) for error in errors), key=lambda each: _position(each, body))
    if fault.kind == "json_invalid":
        return InvalidRequest(NOT_JSON)
    if fault.kind == "union_tag_not_found" and isinstance(fault.value, dict):
        fault = _without_type(fault)
    elif fault.kind == "union_tag_invalid":
        fault = fault.at("type")
    message, code = _TEXTS.get(fault.kind, _other)(fault)
    return InvalidRequest(message, param=fault.param, code=code)


def kind_of(value: Json) -> str:
    """A JSON value's type as the original names it."""
    for kind, name in _NAMES:
        if isinstance(value, kind):
            return name
    return "null"


_NAMES = (
    (bool, "a boolean"),
    (int, "an integer"),
    (float, "a decimal"),
    (str, "a string"),
    (list, "an array"),
    (dict, "an object"),
)


def _fault(error: Json) -> Fault:
    facts: dict[str, Json] = error.get("ctx") or {}
    loc = list(error["loc"])[1:]
    in_key = bool(loc) and loc[-1] == KEY
    if in_key:
        loc = loc[:-2]
    path = [step for step in (*loc, *facts.get("at", ())) if not (isinstance(step, str) and step.startswith(MARK))]
    return Fault(error["type"], tuple(path), error.get("input"), facts, in_key, error.get("msg", ""))


def _position(fault: Fault, body: Json) -> tuple[int, ...]:
    """Where the error stands in the document, comparable; an error of a whole comes before those of its parts."""
    position: list[int] = []
    for step in fault.steps:
        if isinstance(body, dict):
            position.append(list(body).index(step) if step in body else len(body))
            body = body.get(step)
        elif isinstance(body, list) and isinstance(step, int):
            position.append(step)
            body = body[step] if step < len(body) else None
        else:
            break
    return tuple(position)


def _without_type(fault: Fault) -> Fault:
    """An object of a union that cannot be told apart, for want of a `type` or because that is no string."""
    kind = "string_type" if "type" in fault.value else "missing"
    return Fault(kind, (*fault.steps, "type"), fault.value.get("type"))


def _missing(fault: Fault) -> Told:
    if not fault.steps:
        return NOT_JSON, None
    return f"Missing required parameter: {fault.named}.", "missing_required_parameter"


def _unknown(fault: Fault) -> Told:
    return f"Unknown parameter: {fault.named}.", "unknown_parameter"


def _wrong_type(expected: str) -> Callable[[Fault], Told]:
    def tell(fault: Fault) -> Told:
        found = kind_of(fault.value)
        what = fault.facts.get("expected", expected)
        return f"Invalid type for {fault.named}: expected {what}, but got {found} instead.", "invalid_type"

    return tell


def _not_finite(fault: Fault) -> Told:
    return f"Invalid type for {fault.named}: NaN and Infinity are not JSON numbers.", "invalid_type"


def _wrong_choice(fault: Fault) -> Told:
    choices = [f"'{choice}'" for choice in _QUOTED.findall(fault.facts["expected"])]
    return _choice(fault, fault.value, choices)


def _wrong_tag(fault: Fault) -> Told:
    tags = [tag.removeprefix(r"\x00") for tag in _QUOTED.findall(fault.facts["expected_tags"])]
    choices = [f"'{kind}'" for tag in tags if not tag.startswith("=") for kind in tag.split("|")]
    return _choice(fault, fault.value["type"], choices)


def _choice(fault: Fault, value: Json, choices: list[str]) -> Told:
    if not isinstance(value, str):
        one_of = f"one of {_listed(choices, 'or')}" if len(choices) > 1 else choices[0]
        return f"Invalid type for {fault.named}: expected {one_of}, but got {kind_of(value)} instead.", "invalid_type"
    verb = "Supported values are" if len(choices) > 1 else "Value must be"
    return f"Invalid value: '{echo(value)}'. {verb}: {_listed(choices, 'and')}.", "invalid_value"


def _listed(items: list[str], word: str) -> str:
    if len(items) <= 2:
        return f" {word} ".join(items)
    return f"{', '.join(items[:-1])}, {word} {items[-1]}"


def _long_string(fault: Fault) -> Told:
    limit, length = fault.facts["max_length"], len(fault.value)
    noun = "key" if fault.in_key else "string"
    text = f"Expected a {noun} with maximum length {limit}, but got a {noun} with length {length} instead."
    return f"Invalid {fault.named}: {noun} too long. {text}", "string_above_max_length"


def _short_string(fault: Fault) -> Told:
    limit = fault.facts["min_length"]
    text = f"Expected a string with minimum length {limit}, but got an empty string instead."
    return f"Invalid {fault.named}: empty string. {text}", "empty_string"


def _pattern(fault: Fault) -> Told:
    text = f"Expected a string that matches the pattern '{fault.facts['pattern']}'."
    return f"Invalid {fault.named}: string does not match pattern. {text}", "invalid_value"


def _not_unicode(fault: Fault) -> Told:
    text = "the string contains an unpaired surrogate, which is not valid Unicode."
    return f"Invalid {fault.named}: {text}", "invalid_value"


def _long_array(fault: Fault) -> Told:
    limit, length = fault.facts["max_length"], len(fault.value)
    if isinstance(fault.value, dict):
        text = (
            f"Expected an object with at most {limit} properties, but got an object with {length} properties instead."
        )
        return f"Invalid {fault.named}: too many properties. {text}", "object_above_max_properties"
    text = f"Expected an array with maximum length {limit}, but got an array with length {length} instead."
    return f"Invalid {fault.named}: array too long. {text}", "array_above_max_length"


def _short_array(fault: Fault) -> Told:
    limit = fault.facts["min_length"]
    text = f"Expected an array with minimum length {limit}, but got an empty array instead."
    return f"Invalid {fault.named}: empty array. {text}", "empty_array"


def _too_large(fault: Fault) -> Told:
    return _bound(fault, fault.facts["le"], "<=", "above maximum value", "above_max_value")


def _too_small(fault: Fault) -> Told:
    return _bound(fault, fault.facts["ge"], ">=", "below minimum value", "below_min_value")


def _bound(fault: Fault, bound: int | float, sign: str, text: str, code: str) -> Told:
    noun = "decimal" if isinstance(bound, float) else "integer"
    shown = f"{bound:g}" if isinstance(bound, float) else str(bound)
    got = echo(str(fault.value), 40)
    return (
        f"Invalid {fault.named}: {noun} {text}. Expected a value {sign} {shown}, but got {got} instead.",
        f"{noun}_{code}",
    )


def _refused(fault: Fault) -> Told:
    """Our validators' own words; the path is theirs to place."""
    return fault.facts["message"].replace("'{param}'", fault.named), fault.facts["code"]


def _other(fault: Fault) -> Told:
    return f"Invalid {fault.named}: {echo(fault.plain, 200)}", "invalid_value"


_TEXTS: dict[str, Callable[[Fault], Told]] = {
    "missing": _missing,
    "extra_forbidden": _unknown,
    "refused": _refused,
    "wrong_type": _wrong_type("another type"),
    "string_type": _wrong_type("a string"),
    "int_type": _wrong_type("an integer"),
    "int_from_float": _wrong_type("an integer"),
    "int_parsing": _wrong_type("an integer"),
    "float_type": _wrong_type("a decimal"),
    "bool_type": _wrong_type("a boolean"),
    "list_type": _wrong_type("an array"),
    "dict_type": _wrong_type("an object"),
    "model_type": _wrong_type("an object"),
    "model_attributes_type": _wrong_type("an object"),
    "none_required": _wrong_type("null"),
    "union_tag_not_found": _wrong_type("an object"),
    "union_tag_invalid": _wrong_tag,
    "literal_error": _wrong_choice,
    "string_too_long": _long_string,
    "string_too_short": _short_string,
    "string_pattern_mismatch": _pattern,
    "string_unicode": _not_unicode,
    "too_long": _long_array,
    "too_short": _short_array,
    "less_than_equal": _too_large,
    "greater_than_equal": _too_small,
    "finite_number": _not_finite,
}
