"""The shape of an event that only carries text: known by its bytes, so that the next ones need no reading.

The events of one reply are mostly the same bytes around another text. A shape is learnt from an event that was read:
with a probe in the text's place, those bytes must mean the same event with the probe as its text. JSON has no context,
so with any other string there they mean that string. Whatever differs elsewhere is read as a whole, by the caller.
"""

from typing import Final

import orjson

from orchestrator.foreign import Json

_PROBE: Final = "Is the text here?"
_RAW_PROBE: Final = orjson.dumps(_PROBE)


class Shape:
    """What stands before and behind the text, in a `data: ` line."""

    __slots__ = ("_after", "_after_end", "_before", "_end", "_end_of_one", "_start")

    def __init__(self, before: bytes, after: bytes) -> None:
        self._before = b"data: " + before
        self._start = len(self._before)
        self._after = after
        self._after_end = after + b"\n\n"
        self._end = -len(after)
        self._end_of_one = -len(self._after_end)

    @classmethod
    def of(cls, data: bytes, event: Json) -> "Shape | None":
        """The shape of an event, `data` as it was sent; None if it does more than add text, or if that is not found.

        The event is changed.
        """
        choice = event["choices"][0]
        delta = choice.get("delta")
        if not delta or delta.get("refusal") or delta.get("tool_calls") or type(delta.get("content")) is not str:
            return None
        if choice.get("finish_reason") or event.get("usage") or event.get("error"):
            return None
        try:
            raw = orjson.dumps(delta["content"])
            if b"\n" in data or data.count(raw) != 1 or raw == _RAW_PROBE:
                return None
            before, _, after = data.partition(raw)
            delta["content"] = _PROBE
            return cls(before, after) if orjson.loads(before + _RAW_PROBE + after) == event else None
        except (orjson.JSONEncodeError, orjson.JSONDecodeError):  # half a surrogate pair, or bytes that are no UTF-8
            return None

    def text(self, block: bytes) -> str | None:
        """The text of an event of this shape; None, or nothing, if it has to be read."""
        if block.startswith(self._before) and block.endswith(self._after):
            return _string(block[self._start : self._end])
        return None

    def text_of_one(self, chunk: bytes) -> str | None:
        """The same of a chunk that is one whole event with the empty line that ends it."""
        if chunk.endswith(self._after_end) and chunk.startswith(self._before):
            return _string(chunk[self._start : self._end_of_one])
        return None


def _string(raw: bytes) -> str | None:
    if b"\n" in raw:  # it ends in another event: to find that out by failing takes as long as ten tokens
        return None
    try:
        text = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return text if type(text) is str and "\x00" not in text else None
