"""The worker under a profiler: which functions the CPU time of its event loop, and of Celery's hub, goes to.

    python -m bench.profile_worker [--runs 500] [--model bench-instant-40] [--tree DIR] [--by own|total]

cProfile counts every call from the first measured run on, by the CPU time of each thread. It makes small functions look
dearer than they are: look here for where the time goes, and measure with `bench.limits` what became of it.

The module is also what is started in the place of `assistantd worker`: `PROFILE_TO` names the folder for its findings.
"""

import argparse
import asyncio
import cProfile
import io
import os
import pstats
import runpy
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what is watched must not import what a benchmark needs
    from bench.limits_ground import Child, Ground

ROWS = 40
WARM = 50
ROOT = Path(__file__).parents[1]
INTERVAL = 0.01
ORDERS = {"own": "tottime", "total": "cumtime"}
CELERY = ("celery", "-q", "-A", "workers.app", "worker", "-n", "profiled@bench")
ALONE = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "info")


class Watch:
    """The profile of one thread: it counts from when the folder of findings holds `begin`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._profile = cProfile.Profile(time.thread_time)
        self._begun = False

    def look(self) -> None:
        """Begin, if it is time to. Called by the thread itself, now and then."""
        if not self._begun and self._path.with_name("begin").exists():
            self._begun = True
            self._profile.enable()

    def end(self) -> None:
        """Write down what was found. Called by the thread itself."""
        self._profile.disable()
        self._profile.dump_stats(self._path)


def watched_worker(folder: Path) -> None:
    """Be a worker whose two threads are watched."""
    from workers.loop import LoopThread
    from workers.pool import TaskPool

    loop_watch, hub_watch = Watch(folder / "loop"), Watch(folder / "hub")
    run, handle = LoopThread._run, TaskPool._handle_reports

    def watched_run(self: LoopThread) -> None:
        def look() -> None:
            loop_watch.look()
            self.loop.call_later(INTERVAL, look)

        self.loop.call_soon(look)
        run(self)
        loop_watch.end()

    def watched_handle(self: TaskPool) -> None:
        hub_watch.look()
        handle(self)

    # In this process only, which is there to be watched.
    LoopThread._run = watched_run  # type: ignore[method-assign]
    TaskPool._handle_reports = watched_handle  # type: ignore[method-assign]
    sys.argv = [*CELERY, *ALONE]
    try:
        runpy.run_module("celery", run_name="__main__", alter_sys=True)
    finally:
        hub_watch.end()


def _measure(options: argparse.Namespace, found: Path) -> float:
    from bench import limits_ground
    from bench.report import Options

    told = {"PROFILE_TO": str(found), "PYTHONPATH": f"{options.tree.absolute()}:{ROOT}"}
    with limits_ground.running(Options(tree=options.tree.absolute())) as ground:
        worker = ground.worker(through=__file__, **told, ASSISTANTD_RUN_CONCURRENCY="200")
        spent = asyncio.run(_carry(ground, worker, options, found))
        worker.stop()
    return spent


async def _carry(ground: "Ground", worker: "Child", options: argparse.Namespace, found: Path) -> float:
    """Have runs carried, and return what one cost."""
    from bench import limits, limits_rows

    async with limits.opened(ground) as bench:

        async def carried(runs: int) -> None:
            await bench.carried_by_worker(await limits_rows.seed(bench.connection, runs, options.model))

        await bench.settled()
        await carried(WARM)
        (found / "begin").touch()
        await carried(WARM)
        before = worker.cpu()
        await carried(options.runs)
        return float((worker.cpu() - before) / options.runs)


def _show(found: Path, by: str, rows: int, callers: str) -> None:
    for thread in ("loop", "hub"):
        print(f"\n== {thread} thread, by {by} CPU time")
        text = io.StringIO()
        pstats.Stats(str(found / thread), stream=text).sort_stats(ORDERS[by]).print_stats(rows)
        if callers:
            pstats.Stats(str(found / thread), stream=text).sort_stats("cumtime").print_callers(callers)
        print("\n".join(line for line in text.getvalue().splitlines() if line.strip()))


def main() -> None:
    """Carry runs by a watched worker, and print where its time went."""
    parser = argparse.ArgumentParser(description="Where a worker's CPU time goes.")
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--model", default="bench-instant-40")
    parser.add_argument("--tree", type=Path, default=ROOT)
    parser.add_argument("--by", choices=ORDERS, default="own")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--callers", default="", metavar="PATTERN", help="of which functions the callers are shown")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder)
        spent = _measure(options, found)
        print(f"{options.runs} runs of {options.model}: {spent * 1e6:,.0f} µs CPU a run while watched")
        _show(found, options.by, options.rows, options.callers)


if __name__ == "__main__":
    if folder := os.environ.pop("PROFILE_TO", None):
        watched_worker(Path(folder))
    else:
        main()
