"""What the API's requests cost and how long they take, with none and 200 streams open; and what polling adds to a run.

Two figures of each request: how many a second eight clients get, and how long one takes when they come at a rate that
the API carries well, at random moments. A run that was created is carried out meanwhile, as in life.

Of several turns the middle one's percentile counts: one stall of the machine of a third of a second is more than the
slowest twentieth of a turn. What a server that does next to nothing answers in meanwhile stands beside it, asked by
another process: it feels the machine, the streams and the generator, and nothing of ours.
"""

from collections.abc import Iterator
from dataclasses import replace
from statistics import median
from typing import Literal

from bench.background import failures, open_streams
from bench.calls import Job
from bench.load import Felt, Generator, Load, together
from bench.report import Options, Row, Table, ms, progress, us
from bench.stack import KEY, Stack, running
from bench.throughput import warm_up

MODEL = "bench-instant-40"
CLIENTS = 8
RATE = 50.0
TURNS = 3
OPEN = 200
DEEP = 1000
REQUESTS = ("create_message", "list_messages", "retrieve_run", "create_run", "create_thread_and_run")


def requests(options: Options) -> Iterator[Table]:
    """Requests a second and their times, with 0 and with 200 open streams; polled runs beside the model."""
    with running(options) as stack, Generator(3) as generator:
        assistant = stack.assistant(MODEL)
        warm_up(stack, generator, assistant)
        yield _polling(stack, generator, assistant, options)
        job = Job(stack.base_url, "streamed", KEY, MODEL, assistant)
        paths = _prepare(stack, assistant, 100 if options.quick else DEEP)
        rows: list[Row] = []
        for streams in (0, OPEN):
            rows += _requests(stack, generator, job, paths, streams, options)
    yield Table(
        "requests",
        "The API's requests",
        rows,
        f"{CLIENTS} clients at once; times at {RATE:.0f} a second offered, of {TURNS} turns the middle one's; bare:"
        " a server that does nothing, at the same time",
    )


def _prepare(stack: Stack, assistant: str, deep: int) -> dict[str, tuple[str, ...]]:
    """Threads and runs that requests need: many short threads, a deep one, runs that are over."""
    threads = tuple(f"/threads/{stack.ask('POST', '/threads', {})['id']}" for _ in range(20))
    message = {"role": "user", "content": "A message of a long conversation about nothing in particular. " * 3}
    for _ in range(deep):
        stack.ask("POST", f"{threads[0]}/messages", message)
    runs = []
    for thread in threads[1:10]:
        stack.ask("POST", f"{thread}/messages", message)
        run = stack.ask("POST", f"{thread}/runs", {"assistant_id": assistant})["id"]
        stack.ask("GET", f"{thread}/runs/{run}?wait=30")
        runs.append(f"{thread}/runs/{run}")
    return {"create_message": threads[10:], "list_messages": threads[:1], "retrieve_run": tuple(runs)}


def _requests(
    stack: Stack, generator: Generator, job: Job, paths: dict[str, tuple[str, ...]], streams: int, options: Options
) -> list[Row]:
    seconds = 2.0 if options.quick else 6.0
    rows: list[Row] = []
    with open_streams(generator, job, streams, (2 * seconds + 9) * len(REQUESTS)) as slow:
        for name in REQUESTS:
            progress(f"requests: {name}, {streams} open streams")
            asked = replace(job, call=name, paths=paths.get(name, ()))
            if name == "create_run":  # a thread has one run at a time
                asked = replace(asked, paths=_fresh(stack, int(2 * RATE * seconds)))
            rows.append({"open streams": streams, **_request(stack, generator, asked, seconds, streams)})
    for felt in slow:
        rows[-1] |= failures(felt)
    return rows


def _fresh(stack: Stack, threads: int) -> tuple[str, ...]:
    return tuple(f"/threads/{stack.ask('POST', '/threads', {})['id']}" for _ in range(threads))


def _request(stack: Stack, generator: Generator, job: Job, seconds: float, streams: int) -> Row:
    half = len(job.paths) // 2
    with stack.meter() as used:
        many = generator.offer(_load(job, slice(half), "loop", seconds))[0]
    stack.settle(streams)
    felt: list[Felt] = []
    bare: list[Felt] = []
    for turn in range(TURNS):
        threads = slice(half + half * turn // TURNS, half + half * (turn + 1) // TURNS)
        ours = replace(_load(job, threads, "rate", seconds / TURNS), seed=turn)
        control = replace(ours, job=Job(stack.model_url, "bare"), seed=turn + TURNS, most=10**9)
        one, other = generator.offer(ours, control)
        felt.append(one)
        bare.append(other)
    stack.settle(streams)
    return {
        "request": job.call,
        "requests/s": round(many.per_second),
        "api µs each": us(used["api"] / max(1, len(many.totals))),
        "postgres µs each": us(used["postgres"] / max(1, len(many.totals))),
        "p50 ms": ms(together(felt).total()),
        "p95 ms": ms(median(turn.total(0.95) for turn in felt)),
        "p99 ms": ms(together(felt).total(0.99)),
        "bare p95 ms": ms(median(turn.total(0.95) for turn in bare)),
        **failures(many, *felt, *bare),
    }


def _load(job: Job, threads: slice, way: Literal["loop", "rate"], seconds: float) -> Load:
    """Calls on some of the threads, where a thread can be used once."""
    once = job.call == "create_run"
    job = replace(job, paths=job.paths[threads]) if once else job
    return Load(job, way, CLIENTS, seconds, rate=RATE, most=len(job.paths) if once else 10**9)


def _polling(stack: Stack, generator: Generator, assistant: str, options: Options) -> Table:
    """One client: the model alone, and the same through a run that is streamed, polled and waited for."""
    rounds, seconds = (1, 3.0) if options.quick else (3, 6.0)
    jobs = {"the model": Job(stack.model_url, "direct", model="bench-ideal")}
    for told, call in {"streamed": "streamed", "openai-poll-after-ms": "polled", "?wait=": "waited"}.items():
        jobs[told] = Job(stack.base_url, call, KEY, "bench-ideal", assistant)
    felt: dict[str, list[Felt]] = {told: [] for told in jobs}
    for _ in range(rounds):
        for told, job in jobs.items():
            progress(f"requests: {told}")
            felt[told] += generator.offer(Load(job, seconds=seconds, pause=0.02))
    whole = {told: together(parts) for told, parts in felt.items()}
    model = whole["the model"].total()
    rows: list[Row] = [
        {
            "way": told,
            "total p50 ms": ms(part.total()),
            "total p95 ms": ms(part.total(0.95)),
            "added p50 ms": ms(part.total() - model),
            "runs": len(part.totals),
            **failures(part),
        }
        for told, part in whole.items()
    ]
    return Table("polling", "A run, start to end, beside the model alone", rows, "bench-ideal, one client")
