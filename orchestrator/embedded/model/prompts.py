"""What the model is asked: which functions to call, or to answer. Both are kept short, since 130 tokens cost a second.

The wording was measured, not guessed: with the examples in another order, or with the instructions above the message,
the half billion parameters call functions for small talk; with an answer as one more alternative they miss calls. The
examples come first and never change, so their tokens are computed once and reused.
"""

import json
from collections.abc import Iterable

import orjson

from orchestrator.embedded.model.dialogue import Dialogue
from orchestrator.embedded.model.requests import Function
from orchestrator.foreign import Json

ROUTER = (
    "You list the function calls that are needed to serve the message. If no function in the list does what the "
    "message asks for, or the message is small talk or a question of general knowledge, the list is "
    "empty. Reply in JSON."
)
KITCHEN = "- find_recipe(dish: string): Find a recipe for a dish\n- play_music(title: string): Play a song"
TRAIN = "- get_ticket_price(town: string): Price of a train ticket to a town"
EXAMPLES: tuple[tuple[str, str, list[tuple[str, dict[str, str]]]], ...] = (
    (KITCHEN, "Who invented the piano?", []),
    (
        TRAIN,
        "How much are tickets to Lyon and to Graz?",
        [("get_ticket_price", {"town": "Lyon"}), ("get_ticket_price", {"town": "Graz"})],
    ),
    (KITCHEN, "Translate 'cat' to Greek.", []),
    (TRAIN, "What does it cost to go to Bern?", [("get_ticket_price", {"town": "Bern"})]),
)

LONGEST_MESSAGE = 2000
LONGEST_EARLIER = 300
MOST_EARLIER = 4
LONGEST_DESCRIPTION = 240
LONGEST_HINT = 80


def routing(dialogue: Dialogue, functions: Iterable[Function], *, instructions: bool) -> list[Json]:
    """Ask which of the functions to call now, if any."""
    parts = [f"Functions:\n{chr(10).join(map(signature, functions))}"]
    if instructions and dialogue.instructions:
        parts.append(f"Instructions: {shorten(dialogue.instructions, LONGEST_MESSAGE)}")
    if dialogue.earlier:
        lines = [f"{role}: {shorten(text, LONGEST_EARLIER)}" for role, text in dialogue.earlier[-MOST_EARLIER:]]
        parts.append("Earlier:\n" + "\n".join(lines))
    parts.append(f"Message: {shorten(dialogue.message, LONGEST_MESSAGE)}")
    asked = [*router_start(), _said("user", "\n\n".join(parts))]
    if dialogue.results:
        calls = [(result.function, result.arguments) for result in dialogue.results]
        made = ", ".join(f'{{"function": "{name}", "arguments": {arguments or "{}"}}}' for name, arguments in calls)
        told = "\n".join(shorten(result.told(), LONGEST_MESSAGE) for result in dialogue.results)
        asked.append(_said("assistant", f'{{"calls": [{made}]}}'))
        asked.append(
            _said("user", f"Results:\n{told}\n\nList only the calls that are still needed after these results.")
        )
    return asked


def router_start() -> list[Json]:
    """How every routing prompt begins."""
    start = [_said("system", ROUTER)]
    for functions, message, calls in EXAMPLES:
        listed = [{"function": name, "arguments": arguments} for name, arguments in calls]
        start.append(_said("user", f"Functions:\n{functions}\n\nMessage: {message}"))
        start.append(_said("assistant", _spaced({"calls": listed})))
    return start


def answering(dialogue: Dialogue) -> list[Json]:
    """Ask for the answer in words, from the results if there are any."""
    messages = [_said("system", dialogue.instructions)] if dialogue.instructions else []
    messages += [_said(role, text) for role, text in dialogue.earlier]
    if not dialogue.results:
        return [*messages, _said("user", dialogue.message or "Please go on.")]
    results = "\n".join(result.told() for result in dialogue.results)
    closing = "Answer with these results, in one or two sentences."
    if all(result.failed for result in dialogue.results):
        closing = "Tell the user that this did not work and why, in one sentence."
    return [*messages, _said("user", f"{dialogue.message}\n\nResults of functions:\n{results}\n\n{closing}".lstrip())]


def signature(function: Function) -> str:
    """A function in one line, as the examples show them."""
    parameters = function.parameters or {}
    required = parameters.get("required") or []
    properties = parameters.get("properties")
    listed = [
        f"{name}{'' if name in required else '?'}: {_type(schema)}{_hint(schema)}"
        for name, schema in (properties.items() if isinstance(properties, dict) else ())
    ]
    description = shorten(" ".join((function.description or "").split()), LONGEST_DESCRIPTION)
    return f"- {function.name}({', '.join(listed)})" + (f": {description}" if description else "")


def shorten(text: str, longest: int) -> str:
    """`text` with its middle left out if it is too long."""
    if len(text) <= longest:
        return text
    half = (longest - 3) // 2
    return f"{text[:half]} … {text[-half:]}"


def _type(schema: Json) -> str:
    if not isinstance(schema, dict):
        return "any"
    if isinstance(schema.get("enum"), list):
        return "|".join(orjson.dumps(value).decode() for value in schema["enum"][:12])
    if schema.get("type") == "array":
        return f"{_type(schema.get('items'))}[]"
    kind = schema.get("type")
    if isinstance(kind, list):
        return "|".join(map(str, kind))
    return str(kind or "any")


def _hint(schema: Json) -> str:
    described = schema.get("description") if isinstance(schema, dict) else None
    return f" ({shorten(' '.join(described.split()), LONGEST_HINT)})" if isinstance(described, str) else ""


def _said(role: str, content: str) -> Json:
    return {"role": role, "content": content}


def _spaced(value: Json) -> str:
    """JSON as models write it, with a space after colons and commas."""
    return json.dumps(value, ensure_ascii=False)
