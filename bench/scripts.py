"""What the scripted model says, chosen by the model's name, as bytes that are made once and sent many times.

    bench-instant-40            40 tokens, all in one write, at once
    bench-paced-40-50-10        40 tokens, the first after 50 ms, then one each 10 ms, the end 10 ms after the last
    bench-paced-40-50-10-2000   the same with 2,000 characters a token
    bench-tools-10-2            10 rounds of 2 function calls at once, then 40 tokens, all without waiting
    bench-tools-10-2-50         the same, each answer after 50 ms
    bench-ideal                 bench-paced-40-50-10: the ideal model of the figures, 450 ms in all
    bench-2s, bench-30s         40 tokens, 2 and 30 seconds in all

The frames are those of the original: a role, the deltas, a finish reason, usage, [DONE]; each a chunk of HTTP.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

CREATED = 1_767_225_600
WORD = " lorem"
FUNCTION = "look_up"
"""The function that tool calls name; an assistant of a bench declares it."""
ALIASES = {
    "bench-ideal": "bench-paced-40-50-10",
    "bench-2s": "bench-paced-40-40-49",
    "bench-30s": "bench-paced-40-400-740",
}
_NAME = re.compile(r"bench-(?:(instant)-(\d+)|(paced)-(\d+)-(\d+)-(\d+)(?:-(\d+))?|(tools)-(\d+)-(\d+)(?:-(\d+))?)")


class Beat(NamedTuple):
    """What is sent so many seconds after the request came."""

    at: float
    data: bytes


Script = tuple[Beat, ...]


class UnknownScriptError(ValueError):
    """No script has this name."""


def seconds_of(model: str) -> tuple[float, float]:
    """When the first token comes and when all is said, by the script alone."""
    beats = script(model, 0)
    return beats[0].at, beats[-1].at


@lru_cache(maxsize=512)
def script(model: str, answered: int) -> Script:
    """The beats of one reply; `answered` is how many tool results the request held. Raises UnknownScriptError."""
    found = _NAME.fullmatch(ALIASES.get(model, model))
    if found is None:
        raise UnknownScriptError(model)
    if found[1]:
        return _at_once(_text(model, int(found[2]), len(WORD)))
    if found[3]:
        return _paced(model, int(found[4]), int(found[5]) / 1e3, int(found[6]) / 1e3, int(found[7] or len(WORD)))
    rounds, parallel, wait = int(found[9]), int(found[10]), int(found[11] or 0) / 1e3
    number = answered // parallel
    frames = _calls(model, number, parallel) if number < rounds else _text(model, 40, len(WORD))
    return _at_once(frames, wait)


def whole(model: str) -> bytes:
    """The reply as one JSON document, for clients that do not stream. Raises UnknownScriptError."""
    tokens = sum(beat.data.count(b'"delta":{"content"') for beat in script(model, 0))
    message = {"role": "assistant", "content": WORD * tokens}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return orjson.dumps({**_base(model), "object": "chat.completion", "choices": [choice], "usage": _usage(tokens)})


def _at_once(frames: Iterator[bytes], at: float = 0.0) -> Script:
    return (Beat(at, b"".join(frames)),)


def _paced(model: str, tokens: int, first: float, gap: float, size: int) -> Script:
    """One write a token; the role travels with the first, the usage and the end with the last word."""
    frames = list(_text(model, tokens, size))
    words = [frames[0] + frames[1], *frames[2 : tokens + 1], b"".join(frames[tokens + 1 :])]
    return tuple(Beat(first + gap * number, data) for number, data in enumerate(words))


def _text(model: str, tokens: int, size: int) -> Iterator[bytes]:
    yield _frame(model, {"role": "assistant", "content": "", "refusal": None})
    word = _frame(model, {"content": (WORD * (size // len(WORD) + 1))[:size]})
    for _ in range(tokens):
        yield word
    yield from _end(model, "stop", tokens)


def _calls(model: str, number: int, parallel: int) -> Iterator[bytes]:
    """Function calls as they come from the original: name and id first, then the arguments in pieces."""
    for index in range(parallel):
        call = {"index": index, "id": f"call_{number}_{index}", "type": "function"}
        role = {"role": "assistant", "content": None} if index == 0 else {}
        yield _frame(model, {**role, "tool_calls": [{**call, "function": {"name": FUNCTION, "arguments": ""}}]})
        for piece in ('{"place": ', f'"{number}-{index}"', "}"):
            yield _frame(model, {"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield from _end(model, "tool_calls", 12 * parallel)


def _end(model: str, reason: str, tokens: int) -> Iterator[bytes]:
    yield _frame(model, {}, reason)
    yield _event(orjson.dumps({**_base(model), "choices": [], "usage": _usage(tokens)}))
    yield _event(b"[DONE]") + b"0\r\n\r\n"


def _frame(model: str, delta: dict[str, Any], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return _event(orjson.dumps({**_base(model), "choices": [choice], "usage": None}))


def _event(data: bytes) -> bytes:
    event = b"data: %s\n\n" % data
    return b"%x\r\n%s\r\n" % (len(event), event)


def _base(model: str) -> dict[str, Any]:
    named = {"id": "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG", "object": "chat.completion.chunk", "created": CREATED}
    return {**named, "model": model, "service_tier": "default", "system_fingerprint": "fp_b376dfbbd5"}


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 20, "completion_tokens": tokens, "total_tokens": 20 + tokens}
