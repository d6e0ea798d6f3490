"""Which messages of a thread are told when there is no room for all of them. Pure: sizes in, choice out.

    first messages (up to HEAD, in half of the room) · … dropped … · newest messages (in the rest)

The newest message is told in any case. The first ones often say what the conversation is about, and a beginning that
stays the same is one that model servers have cached. What is dropped is one stretch in the middle.
"""

from collections.abc import Sequence

from orchestrator.execution.conversation import Unit

HEAD = 4
"""First messages of a thread that are kept if they fit into half of the room."""


def choose(units: Sequence[Unit], room: int, *, head: int = HEAD) -> list[Unit]:
    """The units, oldest first, that fit into `room` tokens; their sizes are known. Without a `head`, the newest ones.

    The newest message is among them even if it does not fit: whether that is an error is not decided here.
    """
    sizes = [unit.size or 0 for unit in units]
    if sum(sizes) <= room:
        return list(units)
    newest = newest_message(units)
    if newest is None:
        return []
    room -= sizes[newest]
    first = _first(units, sizes, room // 2, min(head, newest))
    room -= sum(sizes[:first])
    start = len(units)
    while start > first and (start - 1 == newest or sizes[start - 1] <= room):
        start -= 1
        room -= 0 if start == newest else sizes[start]
    kept = [*range(first), *([newest] if newest < start else []), *range(start, len(units))]
    return [units[place] for place in kept]


def newest_message(units: Sequence[Unit]) -> int | None:
    """The place of the newest unit with a message of the thread."""
    return next((place for place in reversed(range(len(units))) if units[place].said), None)


def _first(units: Sequence[Unit], sizes: Sequence[int], room: int, most: int) -> int:
    """How many units of the beginning fit into `room`, up to `most` messages."""
    count, messages = 0, 0
    while messages < most and sizes[count] <= room:
        room -= sizes[count]
        messages += units[count].said
        count += 1
    return count
