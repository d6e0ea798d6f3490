"""How often Python looks for cycles of objects that nobody holds.

Most of what a process of ours has in memory is there for good: modules, tables, compiled statements. What a run or a
request needs is let go of at once and makes no cycles. So the collector need not look at the former at all, and at the
latter rarely: left alone, it took a seventh of a busy worker's time.

What runs hold while they are carried is no garbage either. They may hold more than what the collector would wait for,
and each time that many begin it would look at all of it and find nothing, 10 ms at a time.
"""

import gc

THRESHOLDS = (20_000, 20, 20)
"""New objects after which the youngest are looked at; the looks of which one takes in the middle-aged; and so on."""
OF_A_RUN = 250
"""Objects, and some more, that a plain run holds."""


def settle(at_once: int = 0) -> None:
    """Call it once, when everything that stays is there, in a process that carries so many runs at once."""
    youngest, *others = THRESHOLDS
    gc.collect()
    gc.freeze()
    gc.set_threshold(max(youngest, OF_A_RUN * at_once), *others)
