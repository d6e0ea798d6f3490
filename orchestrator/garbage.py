"""How often Python looks for cycles of objects that nobody holds.

Most of what a process of ours has in memory is there for good: modules, tables, compiled statements. What a run or a
request needs is let go of at once and makes no cycles. So the collector need not look at the former at all, and at the
latter rarely: left alone, it took a seventh of a busy worker's time.
"""

import gc

THRESHOLDS = (20_000, 20, 20)
"""New objects after which the youngest are looked at; the looks of which one takes in the middle-aged; and so on."""


def settle() -> None:
    """Call it once, when everything that stays is there."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
