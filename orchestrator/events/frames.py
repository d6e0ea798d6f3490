"""Server-sent event frames of a run, and the cursors that order them.

    id: 3-12
    event: thread.message.delta
    data: {"id":"msg_…",…}

A cursor is `<attempt>-<seq>`: the id of the frame, the `Last-Event-ID` of a client that comes back, and the id in the
Redis stream, which refuses one of an older attempt. Each attempt has one writer, so nobody asks anybody for the next
number.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import orjson

from orchestrator.foreign import Json

RESTING = frozenset(
    f"thread.run.{status}"
    for status in ("requires_action", "completed", "incomplete", "failed", "cancelled", "expired")
)
"""Events after which a run stands still: a client's stream ends with the last of them."""

LINE_ENDS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))
"""Characters that JSON takes raw and that some clients' line readers take for the end of a line."""

DONE = b"event: done\ndata: [DONE]\n\n"


CURSOR = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")


class Cursor(NamedTuple):
    """The place of a frame among a run's events. Cursors compare in the order of events."""

    attempt: int
    seq: int

    @classmethod
    def parse(cls, text: str | bytes) -> "Cursor":
        """The cursor that `text` (`<attempt>-<seq>`) names. Raises ValueError."""
        found = CURSOR.fullmatch(text.decode() if isinstance(text, bytes) else text)
        if found is None:
            raise ValueError(f"not a cursor: {text!r}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.attempt}-{self.seq}"


START = Cursor(0, 0)


class Frame(NamedTuple):
    """One event of a run, ready for the wire."""

    run_id: str
    cursor: Cursor
    data: bytes


new = tuple.__new__
"""Makes frames and cursors, whose own constructors take twice as long."""


class Track:
    """Numbers and builds the frames of one attempt of one run."""

    def __init__(self, run_id: str, attempt: int) -> None:
        self.run_id = run_id
        self.attempt = attempt
        self._seq = 0
        self._head_of, self._head = "", b""

    def fork(self) -> "Track":
        """A track that goes on from here: for a transaction that may have to be repeated, or may never be told."""
        fork = Track(self.run_id, self.attempt)
        fork._seq = self._seq
        return fork

    def join(self, fork: "Track") -> None:
        """Go on from where a fork is: its frames are told."""
        self._seq = fork._seq

    def frame(self, event: str, data: bytes) -> Frame:
        """The next frame: `data` is one line of JSON."""
        self._seq += 1
        cursor = Cursor(self.attempt, self._seq)
        data = _in_one_line(data)
        return Frame(self.run_id, cursor, b"id: %d-%d\nevent: %s\ndata: %s\n\n" % (*cursor, event.encode(), data))

    def frames(self, events: Sequence[tuple[str, bytes]]) -> list[Frame]:
        """The next frames, one for each event and its data, as `frame` makes them."""
        run_id, attempt, seq = self.run_id, self.attempt, self._seq
        made: list[Frame] = []
        for event, data in events:
            seq += 1
            line = b"id: %d-%d\nevent: %b\ndata: %b\n\n" % (attempt, seq, event.encode(), _in_one_line(data))
            made.append(new(Frame, (run_id, new(Cursor, (attempt, seq)), line)))
        self._seq = seq
        return made

    def texts(self, message_id: str, texts: list[str], *, first: bool) -> list[Frame]:
        """The next frames: a `thread.message.delta` for each of `texts`, as `frame` and `message_delta` make them.

        There is one for each token, so whatever they have in common is made once.
        """
        if message_id != self._head_of:
            self._begin(message_id)
        run_id, attempt, seq, head = self.run_id, self.attempt, self._seq, self._head
        made: list[Frame] = []
        for text in texts:
            seq += 1
            value = orjson.dumps(text)
            if not text.isascii():
                value = _in_one_line(value)
            tail = _FIRST_TEXT_END if first and not made else _TEXT_END
            data = b"id: %d-%d%b%b%b\n\n" % (attempt, seq, head, value, tail)
            made.append(new(Frame, (run_id, new(Cursor, (attempt, seq)), data)))
        self._seq = seq
        return made

    def text(self, message_id: str, text: str, *, first: bool) -> Frame:
        """The same of one text: tokens mostly come one by one."""
        if message_id != self._head_of:
            self._begin(message_id)
        self._seq = seq = self._seq + 1
        value = orjson.dumps(text)
        if not text.isascii():
            value = _in_one_line(value)
        tail = _FIRST_TEXT_END if first else _TEXT_END
        data = b"id: %d-%d%b%b%b\n\n" % (self.attempt, seq, self._head, value, tail)
        return new(Frame, (self.run_id, new(Cursor, (self.attempt, seq)), data))

    def _begin(self, message_id: str) -> None:
        self._head_of = message_id
        self._head = b"\nevent: thread.message.delta\ndata: " + _TEXT_HEAD % message_id.encode()


_TEXT_HEAD = b'{"id":"%b","object":"thread.message.delta","delta":{"content":[{"index":0,"type":"text","text":{"value":'
_TEXT_END = b"}}]}}"
_FIRST_TEXT_END = b',"annotations":[]' + _TEXT_END


def _in_one_line(data: bytes) -> bytes:
    if data.isascii():
        return data
    for character, escaped in LINE_ENDS:
        data = data.replace(character, escaped)
    return data


def message_delta(message_id: str, text: str, *, first: bool) -> bytes:
    """The data of a `thread.message.delta` that adds `text`; only the first of a part has `annotations`."""
    return _TEXT_HEAD % message_id.encode() + orjson.dumps(text) + (_FIRST_TEXT_END if first else _TEXT_END)


def refusal_delta(message_id: str, index: int, refusal: str) -> bytes:
    """The data of a `thread.message.delta` that adds to the refusal at content `index`."""
    part = {"index": index, "type": "refusal", "refusal": refusal}
    return orjson.dumps({"id": message_id, "object": "thread.message.delta", "delta": {"content": [part]}})


def step_delta(step_id: str, call: Json) -> bytes:
    """The data of a `thread.run.step.delta` that adds to one tool call."""
    details = {"type": "tool_calls", "tool_calls": [call]}
    return orjson.dumps({"id": step_id, "object": "thread.run.step.delta", "delta": {"step_details": details}})


def error_frame(message: str, *, type_: str = "server_error", code: str | None = None) -> bytes:
    """An `error` event in the union of the shapes that clients read: nested and flat."""
    error = {"message": message, "type": type_, "param": None, "code": code}
    return b"event: error\ndata: %s\n\n" % orjson.dumps({"error": error, **error})


def pieces(frames: bytes) -> list[bytes]:
    """The single frames of a batch."""
    return [frame + b"\n\n" for frame in frames.split(b"\n\n") if frame]


def split(frames: bytes) -> list[tuple[Cursor, bytes]]:
    """The single frames of a batch with their cursors."""
    return [(_id_of(frame), frame) for frame in pieces(frames)]


def first_cursor(frames: bytes) -> Cursor:
    """The cursor of the first frame of a batch."""
    return _id_of(frames)


def last_cursor(frames: bytes) -> Cursor:
    """The cursor of the last frame of a batch. (Newlines in data are escaped: the pattern is only ever a frame's.)"""
    at = frames.rfind(b"\n\nid: ")
    return _id_of(frames[at + 2 :] if at >= 0 else frames)


def last_event(frames: bytes) -> str:
    """The name of the last event of a batch."""
    at = frames.rfind(b"\nevent: ") + len(b"\nevent: ")
    return frames[at : frames.index(b"\n", at)].decode()


def rests(frames: bytes) -> bool:
    """Whether the run stands still with the last event of a batch."""
    at = frames.rfind(b"\nevent: ") + len(b"\nevent: ")
    return not frames.startswith(b"thread.message.", at) and last_event(frames) in RESTING


def _id_of(frame: bytes) -> Cursor:
    attempt, _, seq = frame[len(b"id: ") : frame.index(b"\n")].partition(b"-")
    return Cursor(int(attempt), int(seq))
