"""What a reply is made of, put together however providers tear it apart: texts, and the calls of tools."""

import secrets
import string
from typing import Final

import orjson

from orchestrator.foreign import Json
from orchestrator.model import Delta, ToolCallDelta
from orchestrator.openai_errors import UpstreamTrouble

MAX_CALLS: Final = 128

_ALPHABET: Final = string.ascii_letters + string.digits


class Cleaner:
    """Takes U+0000 out of one text and mends torn surrogate pairs; half a pair that stays alone is dropped."""

    __slots__ = ("half",)

    def __init__(self) -> None:
        self.half = ""  # of a pair that waits for its other half

    def clean(self, content: Json) -> str:
        """The next piece of the text, as it may be stored."""
        text: str = content if type(content) is str else _joined(content)
        if self.half or "\x00" in text or not _encodable(text):
            text = self._mend(text.replace("\x00", ""))
        return text

    def _mend(self, text: str) -> str:
        text = self.half + text
        self.half = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
        if self.half:
            text = text[:-1]
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")


class _Call:
    """A tool call under way. It has no index of ours until its name is known."""

    __slots__ = ("cleaner", "held", "id", "index", "silent")

    def __init__(self, id_: str) -> None:
        self.id = id_
        self.index: int | None = None
        self.held = ""
        self.silent = True
        self.cleaner = Cleaner()


class Calls:
    """Gives every call one contiguous index, one id and one name, however the provider tells its fragments apart."""

    def __init__(self) -> None:
        self._named: list[_Call] = []
        self._open: dict[Json, _Call] = {}
        self._last: _Call | None = None

    @property
    def count(self) -> int:
        """How many have an index."""
        return len(self._named)

    def without_arguments(self) -> list[Delta]:
        """`{}` for each call that got none, as the original wrote it: clients parse arguments, and "" is no JSON."""
        return [ToolCallDelta(place, None, None, "{}") for place, call in enumerate(self._named) if call.silent]

    def take(self, fragment: Json, deltas: list[Delta]) -> None:
        """Add what a fragment brings to `deltas`. Raises UpstreamTrouble if there are too many calls."""
        function = fragment.get("function") or {}
        name: str = function.get("name") or ""
        call = self._last = self._belongs_to(fragment.get("index"), str(fragment.get("id") or ""), name)
        arguments = function.get("arguments") or ""
        if type(arguments) is not str:
            arguments = orjson.dumps(arguments).decode()
        arguments = call.cleaner.clean(arguments)
        if arguments:
            call.silent = False
        if call.index is not None:
            if arguments:
                deltas.append(ToolCallDelta(call.index, None, None, arguments))
        elif name:
            call.index = len(self._named)
            self._named.append(call)
            deltas.append(ToolCallDelta(call.index, _plain(call.id) or _new_id(), _plain(name), call.held + arguments))
        else:
            call.held += arguments

    def _belongs_to(self, index: Json, id_: str, name: str) -> _Call:
        """The call that a fragment continues, or a new one.

        A known index continues its call, unless another id comes with a name: some providers number all calls 0.
        Without an index, another id, or a name without the last call's id, opens a new one.
        """
        known = self._last if index is None else self._open.get(index)
        if known is not None and not self._is_another(known, index, id_, name):
            known.id = known.id or id_
            return known
        call = _Call(id_)
        if self.count >= MAX_CALLS or len(self._open) >= MAX_CALLS:
            raise UpstreamTrouble("too_many_tool_calls")
        if index is not None:
            self._open[index] = call
        return call

    @staticmethod
    def _is_another(known: _Call, index: Json, id_: str, name: str) -> bool:
        if id_ and known.id and id_ != known.id:
            return bool(name) or index is None
        return index is None and bool(name) and known.index is not None and not (id_ and id_ == known.id)


def _joined(parts: Json) -> str:
    return "".join(part["text"] for part in parts if part.get("type") == "text")


def _encodable(text: str) -> bool:
    """Whether there is no surrogate in it; ASCII, the usual case, is known without looking."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plain(text: str) -> str:
    return Cleaner().clean(text)


def _new_id() -> str:
    return "call_" + "".join(secrets.choice(_ALPHABET) for _ in range(24))
