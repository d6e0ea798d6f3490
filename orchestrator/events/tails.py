"""What was published of runs and is not in their streams yet: deltas are appended to them some at a time.

    deltas ─▶ published at once ─▶ wait in their run's tail ─▶ appended together, `LAG` after what was appended last
    anything else ─▶ appended at once, behind all that waits of its run ─▶ published

To append costs Redis several times what it costs to publish, whatever the size. Only deltas behind appended deltas
wait. So a stream that does not end with a delta holds all that was published of its run, and one that does holds it
`LAG` seconds later; unless the writer is lost, and what waits with it: then the deltas that it had told last are known
to those who have heard them and to nobody else. Frames of an attempt are appended in order, and none is missing
between two of one entry: readers look for holes between entries.

What is sent counts as done, unless it is `taken_back`.
"""

from collections.abc import Callable, Iterator

from orchestrator.events import frames
from orchestrator.events.backlog import Batch
from orchestrator.events.line import pack

LAG = 0.25
"""Seconds that a stream may be behind what was published."""
MOST = 16 * 1024
"""Bytes of deltas that wait for a run."""
ENTRIES = 20_000
"""Entries that a run's stream keeps."""

STRING = b"$%d\r\n%b\r\n"
XADD = STRING.join((b"*8\r\n$4\r\nXADD\r\n", pack("MAXLEN", "~", ENTRIES)[4:], pack("f")[4:], b""))
PUBLISH = b"*3\r\n$7\r\nPUBLISH\r\n" + STRING
"""Packed commands with places for a key, an id and data: packing these two anew for each delta takes longer."""

Attempt = tuple[str, int]
"""A run's id, and which attempt at it."""


class Tail:
    """The deltas of an attempt that wait, from the moment on at which others were appended."""

    __slots__ = ("frames", "key", "next", "publish", "size", "until")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.publish = PUBLISH % (len(key), key)
        self.next = 0
        self.until = 0.0
        self.frames: Batch = []
        self.size = 0


class Tails:
    """The tails of all attempts that this process speaks for. `key_of` names a run's stream, which is forgotten after
    `ttl` seconds.
    """

    def __init__(self, key_of: Callable[[str], str], ttl: int) -> None:
        self.lag = LAG
        self._key_of = key_of
        self._ttl = ttl
        self._tails: dict[Attempt, Tail] = {}
        """In the order of `until`."""
        self._sent: list[Batch] = []
        self._held: list[Attempt] = []

    def due(self) -> float | None:
        """When something is to be appended that waits, in the loop's time."""
        return next((tail.until for tail in self._tails.values()), None)

    def hurry(self) -> None:
        """Let nothing wait any more: the process is about to end."""
        self.lag = 0.0
        for tail in self._tails.values():
            tail.until = 0.0

    def commands(self, batches: list[Batch], firm: set[Attempt], now: float) -> list[bytes]:
        """The packed commands that tell batches, and append what is due. Of attempts that are `firm`, more than deltas
        are among them.
        """
        self._sent, self._held = [], []
        commands: list[bytes] = []
        tails, held = self._tails, self._held
        for batch in batches:
            run_id, (number, seq), data = batch[0]
            attempt = (run_id, number)
            tail = tails.get(attempt)
            if tail is None or seq != tail.next or now >= tail.until or attempt in firm:
                commands += self._append(attempt, batch, None if attempt in firm else now)
                continue
            count = len(batch)
            if count > 1:
                data = b"".join([frame[2] for frame in batch])
            size = tail.size + len(data)
            if size > MOST or (count > 1 and batch[-1].cursor.seq - seq + 1 != count):
                commands += self._append(attempt, batch, now)
                continue
            tail.frames += batch
            tail.size = size
            tail.next = seq + count
            held.append(attempt)
            commands.append(b"%b$%d\r\n%b\r\n" % (tail.publish, len(data), data))
        if self._tails:
            commands += self._overdue(now)
        return commands

    def taken_back(self) -> list[Batch]:
        """What is to be told again, for it may not have arrived: the last batches, each with what waited before it."""
        batches = [*self._sent, *(self._tails[attempt].frames for attempt in self._held)]
        for batch in batches:
            self._tails.pop((batch[0].run_id, batch[0].cursor.attempt), None)
        self._sent, self._held = [], []
        return batches

    def _append(self, attempt: Attempt, batch: Batch, now: float | None) -> Iterator[bytes]:
        """Append a batch behind what waits, and publish it. If it has a time, deltas may wait behind it."""
        tail = self._tails.pop(attempt, None) or Tail(self._key_of(attempt[0]).encode())
        for part in _unbroken([*tail.frames, *batch]):
            self._sent.append(part)
            yield _xadd(tail.key, part)
        data = b""
        for part in _unbroken(batch):  # listeners look for holes between messages, too
            data = b"".join([frame.data for frame in part])
            yield b"%b$%d\r\n%b\r\n" % (tail.publish, len(data), data)
        if batch[0].cursor.seq == 1 or (now is None and frames.rests(data)):  # the end, too: Redis may lose a key
            yield pack("EXPIRE", tail.key, self._ttl)
        if now is not None:
            self._wait_behind(attempt, tail, batch[-1].cursor.seq, now)

    def _overdue(self, now: float) -> Iterator[bytes]:
        """Append what has waited long enough."""
        overdue: list[Attempt] = []
        for attempt, tail in self._tails.items():
            if tail.until > now:
                break
            overdue.append(attempt)
        for attempt in overdue:
            tail = self._tails.pop(attempt)
            if tail.frames:
                self._sent.append(tail.frames)
                yield _xadd(tail.key, tail.frames)
                self._wait_behind(attempt, tail, tail.next - 1, now)

    def _wait_behind(self, attempt: Attempt, tail: Tail, last: int, now: float) -> None:
        if not self.lag:
            return
        tail.frames, tail.size, tail.next, tail.until = [], 0, last + 1, now + self.lag
        self._tails[attempt] = tail


def _unbroken(batch: Batch) -> Iterator[Batch]:
    """The batch in parts that have no hole."""
    begin = 0
    if batch[-1].cursor.seq - batch[0].cursor.seq + 1 != len(batch):
        for place in range(1, len(batch)):
            if batch[place].cursor.seq != batch[place - 1].cursor.seq + 1:
                yield batch[begin:place]
                begin = place
    yield batch[begin:] if begin else batch


def _xadd(key: bytes, batch: Batch) -> bytes:
    data = batch[0].data if len(batch) == 1 else b"".join([frame.data for frame in batch])
    place = b"%d-%d" % batch[-1].cursor
    return XADD % (len(key), key, len(place), place, len(data), data)
