"""What one listener has heard of a run's messages and steps: so that it can be told the rest if frames are lost.

Nothing is relayed behind a hole: a text with a piece missing is worse than one that comes late. Frames tell of a hole
by their numbers, or because they do not follow from what was heard: a step begins, or the run comes to rest, while
something is open whose end was never told.

Deltas are the bulk of what passes. They are not parsed: of an open message it is noted how much of its text was told,
in bytes as JSON has them, and their checksum; what is missing can be cut off the stored text then.
"""

import re
import zlib
from collections.abc import Iterable
from typing import NamedTuple

import orjson

from orchestrator.events import frames
from orchestrator.events.frames import START, Cursor

MARKS = re.compile(rb"\nevent: thread\.(?:message|run\.step)\.(?!delta\n|in_progress\n)")
"""What else than deltas there is of messages and steps."""
PIECES = re.compile(rb'"text":\{"value":"([^"\\]*(?:\\.[^"\\]*)*)"')
REFUSALS = re.compile(rb'"type":"refusal","refusal":"([^"\\]*(?:\\.[^"\\]*)*)"')
"""The pieces of text, and of refusals, in a batch of frames; within a text, quotes are escaped."""
UNTORN = frozenset(f"thread.run.{status}" for status in ("created", "queued", "requires_action"))
"""Events behind which the next attempt may begin without anything having been lost."""


ENDS = frames.RESTING - {"thread.run.requires_action"}
"""Events behind which there is nothing more."""


class Part(NamedTuple):
    """How much of a text was told, and its checksum."""

    size: int = 0
    checksum: int = 0

    def and_(self, pieces: Iterable[bytes]) -> "Part":
        """The same with these pieces behind it."""
        size, checksum = self
        for piece in pieces:
            size += len(piece)
            checksum = zlib.crc32(piece, checksum)
        return Part(size, checksum)


class Told(NamedTuple):
    """What was told of an open message: how much it said, and how much of a refusal."""

    text: Part = Part()
    refusal: Part = Part()


class Heard:
    """The account of one listener that begins behind `after`.

    `whole`: the listener knows nothing of the run but this, for it listens from the first event, or `resumed` the run
    from its rest, with the outputs of a step that is told to be completed first, and that was `answered`. `end` is how
    the run ended, if that was told behind a hole: all that is left of a run that was deleted.
    """

    def __init__(self, after: Cursor, answered: str | None = None) -> None:
        self.whole = after.seq == 0
        self.resumed = self.whole and after != START
        self.answered = answered
        self.hole = False
        self.end = b""
        self.open: dict[str, Told] = {}
        self.ended: set[str] = set()
        self._torn = False

    def knows(self, id_: str) -> bool:
        """Whether the listener has heard of this message or step."""
        return id_ in self.open or id_ in self.ended

    def follow(self, batch: bytes) -> bytes:
        """Note the next frames. Returns what may be relayed: nothing from a hole on, nor the end of what was never told
        to have begun (clients break on that): its worker was lost before it told.
        """
        if self.hole:
            if frames.last_event(batch) in ENDS:
                self.end = frames.split(batch)[-1][1]
            return b""
        if MARKS.search(batch) is None and frames.last_event(batch) not in frames.RESTING:
            self._count(batch)
            return batch
        return b"".join(frame for _, frame in frames.split(batch) if self._note(frame))

    def next_attempt(self, last: str) -> None:
        """The next frames are another attempt's; the last event before was `last`."""
        if last not in UNTORN:  # a worker was lost, and maybe what it had to tell
            self._torn = True

    def _note(self, frame: bytes) -> bool:
        name = frames.last_event(frame)
        if name in frames.RESTING:
            self.hole |= self._torn or bool(self.open if name != "thread.run.requires_action" else self._messages())
            if self.hole and name in ENDS:
                self.end = frame
        kind, _, change = name.rpartition(".")
        if kind in ("thread.message", "thread.run.step"):
            if change == "delta":
                self._count(frame)
            elif change != "in_progress":
                return self._change(kind, change, orjson.loads(frame[frame.index(b"\ndata: ") + 7 :])["id"])
        return not self.hole

    def _change(self, kind: str, change: str, id_: str) -> bool:
        if change == "created":
            self.hole |= bool(self.open if kind == "thread.run.step" else self._messages())
            if not self.hole:
                self.open[id_] = Told()
            return not self.hole
        known = bool(self.open or self.ended)
        begun = self.open.pop(id_, None) is not None or not self.whole or (self.resumed and not known)
        if not self.hole:
            self.ended.add(id_)
        return begun and not self.hole

    def _messages(self) -> list[str]:
        return [id_ for id_ in self.open if id_.startswith("msg_")]

    def _count(self, frames_: bytes) -> None:
        for id_ in self._messages():
            text, refusal = self.open[id_]
            self.open[id_] = Told(text.and_(PIECES.findall(frames_)), refusal.and_(REFUSALS.findall(frames_)))


def untold(text: str, told: Part) -> str | None:
    """What is left of a text of which so much was told; None if it begins otherwise."""
    escaped = orjson.dumps(text)[1:-1]
    for character, escape in frames.LINE_ENDS:
        escaped = escaped.replace(character, escape)
    if len(escaped) < told.size or zlib.crc32(escaped[: told.size]) != told.checksum:
        return None
    rest: str = orjson.loads(b'"%s"' % escaped[told.size :])
    return rest
