"""What assistantd adds to the model: time to the first token and in all, against the model called directly.

Both are asked by the same load generator in the same run, turn by turn, so that what the machine does besides falls on
both. The added time is the difference of the medians. Rounds of which the machine's host took a part are repeated.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from bench.background import failures, open_streams
from bench.calls import Job
from bench.load import Felt, Generator, Load, together
from bench.report import Options, Row, Table, ms, progress
from bench.stack import KEY, Stack, running
from bench.throughput import warm_up
from bench.undisturbed import TRIES, undisturbed

MODEL = "bench-ideal"


@dataclass(frozen=True)
class Level:
    """How many ask at once. `behind` more streams are open meanwhile, at a model's usual pace."""

    name: str
    way: Literal["loop", "burst", "rate"]
    clients: int = 1
    rate: float = 1.0
    behind: int = 0


LEVELS = (
    Level("1 client", "loop"),
    Level("12 at once", "burst", 12),
    Level("50 at once", "burst", 50),
    Level("100 at once", "burst", 100),
    Level("60 runs/s offered", "rate", rate=60),
    Level("among 100 open streams", "loop", behind=100),
    Level("among 500 open streams", "loop", behind=500),
)


def latency(options: Options) -> Iterator[Table]:
    """Time added to the first token and to the end: idle, many at once, at a rate, among open streams."""
    with running(options) as stack, Generator(2) as generator:
        assistant = stack.assistant(MODEL)
        warm_up(stack, generator, assistant)
        rows = [_level(stack, generator, assistant, level, options) for level in LEVELS]
    note = f"{MODEL}: first token after 50 ms, all after 450 ms; medians; interleaved with the model called directly"
    yield Table("latency", "Time added to the model's, ms", rows, note)


def _level(stack: Stack, generator: Generator, assistant: str, level: Level, options: Options) -> Row:
    """Direct and through the stack, in turns; open streams are background to both."""
    progress(f"latency: {level.name}")
    rounds, seconds = (2, 2.5) if options.quick else (4, 5.0)
    ours = Job(stack.base_url, "streamed", KEY, MODEL, assistant)
    direct = Job(stack.model_url, "direct", model=MODEL)
    bursts = min(8, max(2, 200 // level.clients))
    load = Load(ours, level.way, level.clients, seconds, rounds=bursts, rate=level.rate, pause=0.05)
    heard: dict[str, list[Felt]] = {"direct": [], "ours": []}
    tries = 1 if options.quick or level.behind else TRIES  # those behind last as long as the rounds
    stolen = 0.0
    with open_streams(generator, ours, level.behind, 2 * rounds * (seconds + 1)) as slow:
        for _ in range(rounds):
            for name, job in (("direct", direct), ("ours", ours)):
                felt, taken = undisturbed(partial(generator.offer, replace(load, job=job)), tries)
                heard[name] += felt
                stolen += taken
    model, through, behind = together(heard["direct"]), together(heard["ours"]), together(slow)
    return _row(level, model, through) | {"stolen, s": round(stolen, 2)} | failures(through, model, behind)


def _row(level: Level, model: Felt, through: Felt) -> Row:
    return {
        "load": level.name,
        "added first p50": ms(through.first() - model.first()),
        "added first p95": ms(through.first(0.95) - model.first(0.95)),
        "added first p99": ms(through.first(0.99) - model.first(0.99)),
        "added total p50": ms(through.total() - model.total()),
        "added total p95": ms(through.total(0.95) - model.total(0.95)),
        "direct first": ms(model.first()),
        "direct total": ms(model.total()),
        "runs": len(through.totals),
    }
