"""One client among 200 that stops to read: what do the others notice?

The stalled client asks for a long text of large pieces, takes as little as the kernel lets it, and reads nothing.
Beside it, in turns: the same client reading all, so that what the long text itself costs is in both.
"""

from collections.abc import Iterator
from dataclasses import replace

from bench.background import failures
from bench.calls import Job
from bench.load import Felt, Generator, Load, together
from bench.report import Options, Row, Table, ms, progress
from bench.stack import KEY, Stack, running
from bench.throughput import warm_up

STREAMS = 200
OTHERS = "bench-paced-60-200-100"
LONG = "bench-paced-1000-100-7-4000"
"""Four megabytes of text in seven seconds: more than sockets and buffers hold."""


def stalled(options: Options) -> Iterator[Table]:
    """One client among 200 stops to read: times between the others' tokens, and their ends."""
    with running(options) as stack, Generator(2) as generator:
        assistant = stack.assistant(OTHERS)
        warm_up(stack, generator, assistant)
        felt: dict[str, list[Felt]] = {"reads": [], "stalls": []}
        memory = {"reads": 0.0, "stalls": 0.0}
        for _ in range(1 if options.quick else 3):
            for how, call in (("reads", "streamed"), ("stalls", "stall")):
                progress(f"stalled: the 201st {how}")
                felt[how].append(_turn(stack, generator, Job(stack.base_url, call, KEY, LONG, assistant)))
                memory[how] = max(memory[how], stack.memory("api"))
    rows = [_row(how, together(parts), memory[how]) for how, parts in felt.items()]
    yield Table("stalled", "The others' streams", rows, f"{STREAMS} streams of 10 tokens a second; {LONG} for one more")


def _turn(stack: Stack, generator: Generator, long: Job) -> Felt:
    others = replace(long, call="streamed", model=OTHERS)
    load = Load(others, "loop", STREAMS, seconds=2.0, spread=1.5)
    one, felt = generator.offer(Load(long, "burst"), load)
    if one.failed:
        felt.fail(one.why)
    return felt


def _row(how: str, felt: Felt, memory: float) -> Row:
    return {
        "the 201st": how,
        "first p50 ms": ms(felt.first()),
        "first p99 ms": ms(felt.first(0.99)),
        "gap p50 ms": ms(felt.gap()),
        "gap p99 ms": ms(felt.gap(0.99)),
        "longest gap ms": ms(max(felt.gaps, default=0.0)),
        "total p50 ms": ms(felt.total()),
        "total p99 ms": ms(felt.total(0.99)),
        "api MB": round(memory),
        "runs": len(felt.totals),
        **failures(felt),
    }
