"""What one listener has heard of a run's messages and steps: so that it can be told the rest if frames are lost.

Nothing is relayed behind a hole: a text with a piece missing is worse than one that comes late. Frames tell of a hole
by their numbers, or because they do not follow from what was heard: a step begins, or the run comes to rest, while
something is open whose end was never told.

Deltas are the bulk of what passes. They are not parsed, nor even looked at before there are many or somebody asks: of
an open message it is noted then how much of its text was told, in bytes as JSON has them, and their checksum; what is
missing can be cut off the stored text.
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
UNCOUNTED = 64 * 1024
"""Bytes of deltas that are kept until somebody asks how much was told: mostly nobody does, and the message ends."""
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

    __slots__ = ("_open", "_size", "_torn", "_uncounted", "answered", "end", "ended", "hole", "resumed", "whole")

    def __init__(self, after: Cursor, answered: str | None = None) -> None:
        self.whole = after.seq == 0
        self.resumed = self.whole and after != START
        self.answered = answered
        self.hole = False
        self.end = b""
        self.ended: set[str] = set()
        self._open: dict[str, Told] = {}
        self._torn = False
        self._uncounted: list[bytes] = []
        self._size = 0

    @property
    def open(self) -> dict[str, Told]:
        """The messages and steps that have begun and not ended, and what was told of each."""
        self._count()
        return self._open

    def knows(self, id_: str) -> bool:
        """Whether the listener has heard of this message or step."""
        return id_ in self._open or id_ in self.ended

    def follow(self, batch: bytes) -> bytes:
        """Note the next frames. Returns what may be relayed: nothing from a hole on, nor the end of what was never told
        to have begun (clients break on that): its worker was lost before it told.
        """
        if self.hole:
            if frames.last_event(batch) in ENDS:
                self.end = frames.pieces(batch)[-1]
            return b""
        if MARKS.search(batch) is None and not frames.rests(batch):
            self.add(batch)
            return batch
        return b"".join([frame for frame in frames.pieces(batch) if self._note(frame)])

    def add(self, deltas: bytes) -> None:
        """Note deltas that were relayed."""
        self._uncounted.append(deltas)
        self._size += len(deltas)
        if self._size > UNCOUNTED:
            self._count()

    def next_attempt(self, last: str) -> None:
        """The next frames are another attempt's; the last event before was `last`."""
        if last not in UNTORN:  # a worker was lost, and maybe what it had to tell
            self._torn = True

    def _note(self, frame: bytes) -> bool:
        name = frames.last_event(frame)
        if name in frames.RESTING:
            self.hole |= self._torn or bool(self._open if name != "thread.run.requires_action" else self._messages())
            if self.hole and name in ENDS:
                self.end = frame
        if self.hole:
            return False
        kind, _, change = name.rpartition(".")
        if kind in ("thread.message", "thread.run.step"):
            if change == "delta":
                self.add(frame)
            elif change != "in_progress":
                return self._change(kind, change, orjson.loads(frame[frame.index(b"\ndata: ") + 7 :])["id"])
        return True

    def _change(self, kind: str, change: str, id_: str) -> bool:
        if change != "created" and self._messages() == [id_]:  # nobody will ask any more how much of it was told
            self._forget()
        self._count()
        if change == "created":
            self.hole |= bool(self._open if kind == "thread.run.step" else self._messages())
            if not self.hole:
                self._open[id_] = Told()
            return not self.hole
        known = bool(self._open or self.ended)
        begun = self._open.pop(id_, None) is not None or not self.whole or (self.resumed and not known)
        if not self.hole:
            self.ended.add(id_)
        return begun and not self.hole

    def _messages(self) -> list[str]:
        return [id_ for id_ in self._open if id_.startswith("msg_")]

    def _count(self) -> None:
        if self._uncounted and (messages := self._messages()):
            deltas = b"".join(self._uncounted)
            pieces, refusals = PIECES.findall(deltas), REFUSALS.findall(deltas)
            for id_ in messages:
                text, refusal = self._open[id_]
                self._open[id_] = Told(text.and_(pieces), refusal.and_(refusals))
        self._forget()

    def _forget(self) -> None:
        self._uncounted.clear()
        self._size = 0


def untold(text: str, told: Part) -> str | None:
    """What is left of a text of which so much was told; None if it begins otherwise."""
    escaped = orjson.dumps(text)[1:-1]
    for character, escape in frames.LINE_ENDS:
        escaped = escaped.replace(character, escape)
    if len(escaped) < told.size or zlib.crc32(escaped[: told.size]) != told.checksum:
        return None
    rest: str = orjson.loads(b'"%s"' % escaped[told.size :])
    return rest
