"""One to four worker processes on this machine: runs a second, and what a run costs, as they are added.

More processes than processors cannot do more; what the table must show is that they do not do less, and that a run
costs the same wherever it is carried out.
"""

from collections.abc import Iterator

from bench.calls import Job
from bench.load import Generator, Load
from bench.report import Options, Row, Table, progress
from bench.stack import KEY, running
from bench.throughput import MODEL, runs_per_second, warm_up

WORKERS = (1, 2, 3, 4)
CLIENTS = 100


def scaling(options: Options) -> Iterator[Table]:
    """Workers 1 to 4: runs a second at an instant model and at one of 2 s."""
    seconds = 3.0 if options.quick else 8.0
    rows: list[Row] = []
    with running(options, workers=0) as stack, Generator() as generator:
        assistant = stack.assistant(MODEL)
        for workers in WORKERS:
            progress(f"scaling: {workers} workers")
            stack.start_worker()
            warm_up(stack, generator, assistant)
            for model in (MODEL, "bench-2s"):
                job = Job(stack.base_url, "streamed", KEY, model, assistant)
                load = Load(job, clients=CLIENTS, seconds=seconds, spread=1.0)
                found = runs_per_second(stack, generator, load)
                rows.append({"workers": workers, "model": model.removeprefix("bench-"), **found})
    yield Table("scaling", "Workers", rows, f"{CLIENTS} clients that stream, one API process")
