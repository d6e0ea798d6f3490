"""What waits to be sent: frames by run and attempt, in order, within bounds.

Frames of one attempt never overtake each other, and no single frame is ever missing between two others: when the bound
is hit, all that waits of one attempt is dropped, that which takes most room. Its listeners see the hole at the next
frame, relay nothing behind it, and get the outcome from Postgres.
"""

from collections.abc import Iterator

import structlog

from orchestrator.events.frames import Frame

log = structlog.get_logger(__name__)

FRAMES = 50_000
"""Frames that may wait while Redis is away."""
BYTES = 64 * 1024 * 1024
"""And what they may take."""

Batch = list[Frame]
"""Frames of one attempt of one run, in order."""


class Backlog:
    """Frames that wait."""

    def __init__(self, frames: int = FRAMES, size: int = BYTES) -> None:
        self._most = (frames, size)
        self._batches: dict[tuple[str, int], Batch] = {}
        self._count = 0
        self._size = 0

    def __len__(self) -> int:
        return self._count

    def add(self, frame: Frame) -> int:
        """Let a frame wait behind those of its attempt; returns how many wait."""
        run_id, cursor, data = frame
        key = run_id, cursor[0]
        batch = self._batches.get(key)
        if batch is None:
            self._batches[key] = [frame]
        else:
            batch.append(frame)
        self._count = count = self._count + 1
        self._size = size = self._size + len(data)
        if count > self._most[0] or size > self._most[1]:
            self._stay_within_bounds()
        return count

    def extend(self, frames: Batch) -> None:
        """Let some frames of one attempt wait behind those of it that wait."""
        first = frames[0]
        self._batches.setdefault((first.run_id, first.cursor.attempt), []).extend(frames)
        self._count += len(frames)
        for frame in frames:
            self._size += len(frame.data)
        self._stay_within_bounds()

    def take(self, size: int) -> list[Batch]:
        """Remove and return some `size` bytes of what has waited longest, at least one frame if there is any."""
        if self._size <= size:
            taken, self._batches, self._count, self._size = list(self._batches.values()), {}, 0, 0
            return taken
        return list(self._slices(size))

    def give_back(self, batches: list[Batch]) -> None:
        """Let what was taken and could not be sent wait again, before what came since."""
        rest, self._batches = self._batches, {}
        for batch in (*batches, *rest.values()):
            self._batches.setdefault((batch[0].run_id, batch[0].cursor.attempt), []).extend(batch)
        for batch in batches:
            self._count += len(batch)
            self._size += _size(batch)
        self._stay_within_bounds()

    def _slices(self, left: int) -> Iterator[Batch]:
        while left > 0 and self._batches:
            key, batch = next(iter(self._batches.items()))
            some: Batch = []
            for frame in batch:
                if left <= 0:
                    break
                some.append(frame)
                left -= len(frame.data)
            self._batches[key] = batch[len(some) :]
            if not self._batches[key]:
                del self._batches[key]
            self._count -= len(some)
            self._size -= _size(some)
            yield some

    def _stay_within_bounds(self) -> None:
        while self._count > self._most[0] or self._size > self._most[1]:
            key = max(self._batches, key=lambda each: len(self._batches[each]))
            dropped = self._batches.pop(key)
            self._count -= len(dropped)
            self._size -= _size(dropped)
            log.warning("events_dropped", run_id=key[0], attempt=key[1], frames=len(dropped))


def _size(batch: Batch) -> int:
    return sum(len(frame.data) for frame in batch)
