"""How many tokens a text, a message or a tool is for a model: counted here, with real tokenisers, without a network.

| models | encoding | |
| --- | --- | --- |
| gpt-4o, gpt-4.1, gpt-4.5, gpt-5, o1, o3, o4, chatgpt-4o | o200k_base | exact |
| gpt-oss | o200k_harmony | exact |
| gpt-4, gpt-3.5 | cl100k_base | exact |
| qwen3.5 | qwen3.5 | exact |
| everything else | o200k_base, and a surcharge for digits | an estimate |

Many open models read digit by digit what o200k takes in threes. With that, Qwen 2.5 was estimated within 7 % for prose,
code, Japanese and numbers. (The table of Qwen 3.5 is of no use for it: it has half the tokens for Japanese.)

Texts are exact where the encoding is; what a provider wraps around them is not public. Messages are counted as OpenAI's
cookbook does, images by the documented price of their `detail`, tools and schemas as their JSON, which is a little more
than the provider makes of it. `MARGIN` is what an estimate may be wrong by.

An encoding is loaded when it is first needed (0.2 to 0.8 seconds and 30 to 110 MB, once a process, and the library
keeps the interpreter to itself meanwhile). So whoever can do without a count does: `bound` costs nothing and is never
too low, since no token is shorter than a byte.
"""

import asyncio
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

import orjson
import toktok

from orchestrator.foreign import Json

MARGIN: Final = 1.1
REPLY: Final = 3
"""Tokens that begin the model's answer."""
MESSAGE: Final = 3
"""Tokens around every message, where the encoding is the model's own."""
TEMPLATE: Final = 6
"""Tokens around every message elsewhere: the chat templates of open models spell out what OpenAI has in three."""
CALL: Final = 8
"""Tokens around every tool call, and around every tool on offer."""
IMAGE: Final = {"low": 85}
LARGE_IMAGE: Final = 1105
"""An image of `detail` high or auto: 2,048 × 4,096 pixels, the largest example of OpenAI's own. Nobody has looked."""
LARGE: Final = 64 * 1024
"""Characters from which on counting is done in a thread: they take 2 to 10 milliseconds."""

_Parts = tuple[list[str], int]
_O200K, _CL100K = "o200k_base", "cl100k_base"
_ENCODINGS: Final = (  # the first that fits
    (re.compile(r"gpt-?oss"), "o200k_harmony", True),
    (re.compile(r"(chat)?gpt-?(4o|4\.1|4\.5|5)|o\d(-|$)"), _O200K, True),
    (re.compile(r"gpt-?(4|3)"), _CL100K, True),
    (re.compile(r"qwen-?3\.5"), "qwen3.5", True),
)


def family(model: str) -> str:
    """The name that tells what a model is: without the vendor's path, and without `ft:` and a fine-tune's suffixes."""
    name = model.lower()
    if name.startswith("ft:"):
        name = name.split(":")[1]
    return name.rpartition("/")[2]


@lru_cache(maxsize=1000)
def encoding(model: str) -> tuple[str, bool]:
    """The encoding for a model, and whether it is the model's own."""
    name = family(model)
    return next(
        ((encoding, exact) for pattern, encoding, exact in _ENCODINGS if pattern.match(name)),
        (_O200K, False),
    )


def count(model: str, text: str) -> int:
    """The tokens of a text."""
    return _count(model, [text])[0]


def count_messages(model: str, messages: Sequence[Json]) -> list[int]:
    """The tokens of each message of a chat completion: what is said, called and shown, and what is around it."""
    around = MESSAGE if encoding(model)[1] else TEMPLATE
    parts = [_parts(message) for message in messages]
    counted = iter(_count(model, [text for texts, _ in parts for text in texts]))
    return [around + extra + sum(next(counted) for _ in texts) for texts, extra in parts]


def count_offers(model: str, *offers: Json) -> int:
    """The tokens of the tools on offer, or of a response format: of whatever is told as JSON. None is nothing."""
    told = [orjson.dumps(offer).decode() for offer in offers if offer is not None]
    return sum(_count(model, told)) + CALL * len(told)


async def measure(model: str, messages: Sequence[Json]) -> list[int]:
    """`count_messages` that holds nobody up: large inputs are counted in a thread."""
    if sum(len(text) for message in messages for text in _parts(message)[0]) < LARGE:
        return count_messages(model, messages)
    return await asyncio.to_thread(count_messages, model, messages)


async def measure_offers(model: str, *offers: Json) -> int:
    """`count_offers` that holds nobody up, as above."""
    if bound_offers(*offers) < LARGE:
        return count_offers(model, *offers)
    return await asyncio.to_thread(count_offers, model, *offers)


def bound(message: Json) -> int:
    """At least the tokens of a message, for any model, at no cost."""
    if len(message) == 2 and isinstance(content := message.get("content"), str):  # a role and a text
        return TEMPLATE + _bound(content)
    texts, extra = _parts(message)
    return TEMPLATE + extra + sum(map(_bound, texts))


def bound_offers(*offers: Json) -> int:
    """At least the tokens of what `count_offers` counts."""
    return sum(len(orjson.dumps(offer)) + CALL for offer in offers if offer is not None)


def _count(model: str, texts: Iterable[str]) -> list[int]:
    given = list(texts)
    if not given:
        return []
    name, exact = encoding(model)
    counted: list[int] = toktok.batch_count(given, name, threads=1)
    if exact:
        return counted
    return [min(_bound(text), size + _digits(text) * 2 // 3) for text, size in zip(given, counted, strict=True)]


def _bound(text: str) -> int:
    return len(text) if text.isascii() else 4 * len(text)


def _digits(text: str) -> int:
    return sum(map(text.count, "0123456789"))


def _parts(message: Json) -> _Parts:
    """The texts of a message, and the tokens of everything else."""
    texts, extra = _content(message.get("content"))
    if name := message.get("name"):
        texts.append(name)
        extra += 1
    for call in message.get("tool_calls") or ():
        texts += [call["function"]["name"], call["function"]["arguments"]]
        extra += CALL
    return texts, extra


def _content(content: Json) -> _Parts:
    if content is None:
        return [], 0
    if isinstance(content, str):
        return [content], 0
    texts = [part["text"] for part in content if part["type"] == "text"]
    images = [part.get(part["type"]) or {} for part in content if part["type"] != "text"]
    return texts, sum(IMAGE.get(image.get("detail", "auto"), LARGE_IMAGE) for image in images)
