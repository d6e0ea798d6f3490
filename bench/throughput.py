"""How many runs a second, at a model that answers at once: streamed, polled and waited for, by the whole stack.

The model called directly shows what the generator and the model could do together, so that they are not the bottleneck.
"""

import time
from collections.abc import Iterator

from bench.background import failures
from bench.calls import Job
from bench.load import Felt, Generator, Load
from bench.report import Options, Row, Table, ms, progress, us
from bench.stack import GROUPS, KEY, Stack, running

MODEL = "bench-instant-40"
CLIENTS = 50
WAYS = {
    "the model directly": "direct",
    "streamed": "streamed",
    "in three requests": "stepwise",
    "polled": "polled",
    "?wait=": "waited",
}


def throughput(options: Options) -> Iterator[Table]:
    """Runs a second at an instant model, streamed and polled, and their CPU."""
    seconds = 3.0 if options.quick else 10.0
    with running(options) as stack, Generator() as generator:
        assistant = stack.assistant(MODEL)
        warm_up(stack, generator, assistant)
        yield _idle(stack, seconds)
        rows = []
        for told, call in WAYS.items():
            progress(f"throughput: {told}")
            base = stack.model_url if call == "direct" else stack.base_url
            job = Job(base, call, KEY, MODEL, assistant)
            # Who polls is told to come back after 200 ms or more, and is no load meanwhile: it takes more of them.
            clients = 4 * CLIENTS if call == "polled" else CLIENTS
            rows.append({"way": told, **runs_per_second(stack, generator, Load(job, clients=clients, seconds=seconds))})
    note = f"{MODEL}, {CLIENTS} clients ({4 * CLIENTS} polling), one worker and one API process, {seconds:.0f} s each"
    yield Table("throughput", "Runs a second at an instant model", rows, note)


def _idle(stack: Stack, seconds: float) -> Table:
    """What the stack uses while nobody wants anything."""
    progress("throughput: idle")
    with stack.meter() as used:
        time.sleep(seconds)
    row: Row = {f"{group} ms/s": round(used[group] / seconds * 1e3, 1) for group in GROUPS}
    memory: Row = {f"{group} MB": round(stack.memory(group)) for group in ("api", "worker")}
    return Table("idle", "CPU while nothing runs, and memory", [row | memory])


def warm_up(stack: Stack, generator: Generator, assistant: str) -> None:
    """Let every process do once what it will be measured at; the worker may still be starting."""
    job = Job(stack.base_url, "streamed", KEY, MODEL, assistant)
    generator.share(Load(job, "burst", clients=50, rounds=4))


def runs_per_second(stack: Stack, generator: Generator, load: Load) -> Row:
    """What a load of runs achieved, and the CPU a run by group."""
    with stack.meter() as used:
        felt = generator.share(load)
    return {
        "runs/s": round(felt.per_second, 1),
        **cpu_per_run(used, felt),
        "first p50 ms": ms(felt.first()) if felt.firsts else None,
        "total p50 ms": ms(felt.total()),
        "total p99 ms": ms(felt.total(0.99)),
        **failures(felt),
    }


def cpu_per_run(used: dict[str, float], felt: Felt) -> Row:
    """Microseconds of CPU of each group for each call that was answered well."""
    calls = max(1, len(felt.totals))
    ours = sum(used[group] for group in GROUPS if group != "model")
    each: Row = {f"{group} µs": us(used[group] / calls) for group in GROUPS}
    return {"stack µs/run": us(ours / calls), **each, "load µs": us(felt.cpu / calls)}
