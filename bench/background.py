"""Streams that are open while something else is measured, at a model's usual pace: ten tokens a second each."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from bench.calls import Job
from bench.load import Felt, Generator, Load
from bench.report import Row

SLOW = "bench-paced-{tokens}-200-100"
OPENED_PER_SECOND = 47
"""No multiple of the tokens that a stream has in a second: opened at 50, two hundred streams spoke in five choirs of
forty, each at one moment, as no two hundred clients do.
"""
ENDED = "Streams were over before what was measured beside them."


@contextmanager
def open_streams(generator: Generator, job: Job, streams: int, seconds: float) -> Iterator[list[Felt]]:
    """So many streams are open while the block runs, for so long; what they felt is there when it is left.

    They are opened one after another before the block begins, by one process of the generator.
    """
    felt: list[Felt] = []
    if not streams:
        yield felt
        return
    opening = streams / OPENED_PER_SECOND
    model = SLOW.format(tokens=int(10 * (seconds + opening)))
    background = Load(replace(job, model=model), "loop", streams, seconds=opening + 1, spread=opening)
    under_way = generator.begin(background)
    time.sleep(opening + 1)
    yield felt
    over = under_way.done()
    felt.append(under_way.result())
    if over:
        felt[-1].fail(ENDED)


def failures(*felt: Felt) -> Row:
    """How many calls went wrong, and the first reason."""
    failed = sum(part.failed for part in felt)
    return {"failed": failed, **({"why": next(part.why for part in felt if part.failed)} if failed else {})}
