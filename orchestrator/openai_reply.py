"""What an OpenAI-compatible server streams, turned into deltas: bytes in, `Delta`s out, no I/O.

Providers differ in small ways, and every difference ends here: line ends, comments, events torn anywhere; a missing
`[DONE]`, `finish_reason`, `usage`, tool call index or id; ids and names that are repeated; whole calls at once; halves
of a surrogate pair in two events. Reasoning text that some providers stream has no place here and is dropped.

This is the hot path: it runs once for every token. Look at bench/model_client.py before and after a change. Nearly all
events of a reply differ in one string, the text; a `Shape` knows them again without reading the rest each time.
"""

import json
from typing import Final

import orjson

from orchestrator.foreign import Json
from orchestrator.model import Delta, Ear, Finished, FinishReason, RefusalDelta, TextDelta, Usage
from orchestrator.openai_errors import UpstreamTrouble
from orchestrator.openai_events import EventSplitter, data_of
from orchestrator.openai_pieces import Calls, Cleaner
from orchestrator.openai_shape import Shape

MAX_REPLY: Final = 64 * 1024 * 1024
MAX_DOCUMENT: Final = 16 * 1024 * 1024  # it is in memory as a whole
MOST_TOKENS: Final = 10**12
LESSONS: Final = 8
"""Times that a reply's events are looked at for a shape: some differ in more than their text."""
_REASONS: Final[dict[str, FinishReason]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "function_call": "tool_calls",
    "max_tokens": "length",
}


class Reply:
    """One answer while it arrives. `feed` gives the deltas so far; `flush` and `finish` give what is left. The `ear` is
    told of text that is `offered`.
    """

    def __init__(self, ear: Ear | None = None) -> None:
        self._ear = ear
        self.started = False  # a delta went out: the request must not be repeated
        self.done = False  # [DONE] was seen
        self.complete = False  # nothing is missing but, perhaps, the usage
        self.request_id: str | None = None
        self._events: EventSplitter | None = EventSplitter()
        self._whole = bytearray()
        self._size = 0
        self._reason: FinishReason | None = None
        self._usage: Usage | None = None
        self._calls = Calls()
        self._text = Cleaner()
        self._refusal = Cleaner()
        self._shape: Shape | None = None
        self._lessons = LESSONS

    def begin(self, request_id: str | None, *, whole: bool) -> None:
        """The upstream answers: as an event stream or, with `whole`, in one JSON document that `flush` will read."""
        self.request_id = request_id
        if whole:
            self._events = None

    def feed(self, chunk: bytes) -> list[Delta]:
        """The deltas in `chunk`, the next bytes of an event stream."""
        self._size += len(chunk)
        if self._size > (MAX_REPLY if self._events is not None else MAX_DOCUMENT):
            raise UpstreamTrouble("reply_too_large")
        if self._events is None:
            self._whole += chunk
            return []
        shape, whole = self._shape, self._events.idle and not self._text.half
        if shape is not None and whole and (text := shape.text_of_one(chunk)):
            return [TextDelta(text)]
        return self._take_all(self._events.blocks(chunk))

    def offered(self, chunk: bytes) -> bool:
        """Tell the ear of the text that is all that `chunk` holds; returns whether that was done. Else `feed` it."""
        shape, events, ear = self._shape, self._events, self._ear
        if shape is None or events is None or not events.idle or self._text.half or ear is None:
            return False
        size = self._size + len(chunk)
        if size > MAX_REPLY or not (text := shape.text_of_one(chunk)) or not ear(text):
            return False
        self._size = size
        return True

    def flush(self) -> list[Delta]:
        """The bytes are over: what its last, unfinished event holds, or the whole document."""
        if self._events is not None:
            deltas = [] if self.done else self._take_all(self._events.rest())
        else:
            deltas = self._take_all([bytes(self._whole)])
            self.done = self.complete = True
        return deltas + self._calls.without_arguments() if self.complete and self._reason != "length" else deltas

    def finish(self) -> Finished:
        """How the reply ended. Raises `UpstreamTrouble` when it was cut off, or was no reply at all."""
        if not self.complete:
            raise UpstreamTrouble("cut_off")
        if self._reason is None and not self.started:
            raise UpstreamTrouble("no_reply")  # silence is an answer only if the upstream says that it is one
        reason = self._reason or "stop"
        if reason in ("stop", "tool_calls"):  # some say "stop" after calls (a named tool_choice does), or the reverse
            reason = "tool_calls" if self._calls.count else "stop"
        return Finished(reason, self._usage or Usage(), self.request_id)

    def _take_all(self, blocks: list[bytes]) -> list[Delta]:
        deltas: list[Delta] = []
        try:
            for block in blocks:
                shape = self._shape
                if shape is not None and not self._text.half and (text := shape.text(block)):
                    deltas.append(TextDelta(text))
                elif data := block if self._events is None else data_of(block):
                    if data == b"[DONE]":
                        self.done = self.complete = True
                        break
                    self._read(data, deltas)
        except (
            AttributeError,
            KeyError,
            IndexError,
            TypeError,
            ValueError,
            RecursionError,
        ) as error:  # not the shape that we know
            raise UpstreamTrouble("unreadable_reply") from error
        if deltas:
            self.started = True
        return deltas

    def _read(self, data: bytes, deltas: list[Delta]) -> None:
        event, heard = _parse(data), len(deltas)
        self._take(event, deltas)
        if self._lessons and len(deltas) == heard + 1 and type(deltas[-1]) is TextDelta:
            self._lessons -= 1
            self._shape = Shape.of(data, event) or self._shape

    def _take(self, event: Json, deltas: list[Delta]) -> None:
        if choices := event.get("choices"):
            choice = choices[0]
            self._take_delta(choice.get("delta") or choice.get("message") or {}, deltas)
            if reason := choice.get("finish_reason"):
                if reason == "error":
                    raise UpstreamTrouble.from_event(event.get("error"))
                self._reason = _REASONS.get(reason, "stop")
                self.complete = True
        if usage := event.get("usage"):
            self._usage = _usage(usage)
        if error := event.get("error"):
            raise UpstreamTrouble.from_event(error)
        if not choices and event.get("object") == "error":
            raise UpstreamTrouble.from_event(event)

    def _take_delta(self, delta: Json, deltas: list[Delta]) -> None:
        if (content := delta.get("content")) and (text := self._text.clean(content)):
            deltas.append(TextDelta(text))
        if (refusal := delta.get("refusal")) and (text := self._refusal.clean(refusal)):
            deltas.append(RefusalDelta(text))
        if calls := delta.get("tool_calls"):
            for call in calls:
                self._calls.take(call, deltas)


def _parse(data: bytes) -> Json:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:  # half a surrogate pair and bytes that are no UTF-8 are refused there, mended here
        return json.loads(data.decode("utf-8", "replace"))


def _usage(usage: Json) -> Usage:
    prompt = usage.get("prompt_tokens_details") or {}
    completion = usage.get("completion_tokens_details") or {}
    return Usage(
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
        _count(prompt.get("cached_tokens")),
        _count(completion.get("reasoning_tokens")),
    )


def _count(tokens: Json) -> int:
    """How many; nothing if that cannot be. Less than nothing would give budgets back, and beyond 64 bits there is no
    JSON of ours.
    """
    return int(tokens or 0) if 0 <= (tokens or 0) <= MOST_TOKENS else 0
