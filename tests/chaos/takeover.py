"""How long until the runs of a lost worker are claimed by another?

    python -m tests.chaos.takeover --runs 200

one of two        a worker has all the runs, another stands by idle; the first is killed
the only one      the only worker is killed and replaced at once: the figure holds the start of a process
frozen            as one of two, but the first is stopped (SIGSTOP): it keeps its lock, its lease has to run out

Every run has finished a turn (an unknown tool, answered by the worker) and is in the middle of its next when the worker
is lost, so the model must be asked for the first turn once, and for the second once more.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import aiohttp
import psutil

from orchestrator.open_files import allow_many
from tests.chaos import cluster as clusters
from tests.chaos.cluster import Cluster, until
from tests.chaos.slots import Slot
from tests.chaos.traces import claims, percentile, takeovers
from tests.stack import API_KEY

Case = Literal["one of two", "the only one", "frozen"]
HEADERS = {"Authorization": f"Bearer {API_KEY}"}
AT_ONCE = 25
"""Runs that are created at the same time."""
QUESTION = 'run-{number:04} [[tool=no_such_tool:{{}}]] [[text="One two three." hold=lost hold_after=1]]'


async def measure(case: Case, runs: int, folder: Path, lease: float = 30.0) -> dict[str, Any]:
    """The figures of one case. Raises TimeoutError if not all runs are taken over, and end."""
    async with clusters.running(folder, workers=1, ASSISTANTD_RUN_LEASE=str(lease)) as cluster:
        victim = cluster.workers[0]
        timeout = aiohttp.ClientTimeout(total=60)
        base = f"{cluster.apis[0].base_url}/v1/"
        async with aiohttp.ClientSession(base, headers=HEADERS, timeout=timeout) as session:
            created = await _in_flight(cluster, session, runs)
            if case != "the only one":
                await cluster.ready(cluster.add("worker"))
            load = os.getloadavg()[0]
            life = victim.lose("freeze" if case == "frozen" else "kill")
            heir = cluster.workers[-1]
            if case == "the only one":
                heir.start()
            used = _cpu(heir)
            await until(lambda: _taken(cluster, set(created)), "all runs are taken over", patience=90 + lease)
            used = _cpu(heir) - used
            if case == "frozen":
                victim.thaw()
            cluster.model.release("lost")
            await until(lambda: _over(session, created), "all runs are completed")
        seconds = [taken.seconds for taken in takeovers(claims(cluster.workers)) if taken.seconds is not None]
        began = heir.life.began - (life.lost_at or 0.0) if case == "the only one" else None
        return {
            "case": case,
            "runs": runs,
            "taken over": len(seconds),
            "first": _rounded(min(seconds)),
            "p50": _rounded(percentile(seconds, 0.5)),
            "p99": _rounded(percentile(seconds, 0.99)),
            "max": _rounded(max(seconds)),
            "lease": lease if case == "frozen" else None,
            "worker ready": began and _rounded(_said(heir, "worker_ready") - (life.lost_at or 0.0)),
            "asked": _asked(cluster),
            "heir cpu": _rounded(used),
            "load": _rounded(load),
        }


async def _in_flight(cluster: Cluster, session: aiohttp.ClientSession, runs: int) -> dict[str, str]:
    """Runs by id, with their threads: each has begun the answer of its second turn."""
    async with session.post("assistants", json={"model": "gpt-4o"}) as response:
        assistant = (await response.json())["id"]
    turns = asyncio.Semaphore(AT_ONCE)

    async def create(number: int) -> tuple[str, str]:
        question = {"role": "user", "content": QUESTION.format(number=number)}
        body = {"assistant_id": assistant, "thread": {"messages": [question]}}
        async with turns, session.post("threads/runs", json=body) as response:
            run = await response.json()
            return run["id"], run["thread_id"]

    created = dict(await asyncio.gather(*map(create, range(runs))))
    await until(lambda: _waiting(cluster) == runs, "all runs are in flight")
    return created


def _waiting(cluster: Cluster) -> int:
    waiting: int = cluster.model.state()["gates"].get("lost", {}).get("waiting", 0)
    return waiting


def _taken(cluster: Cluster, run_ids: set[str]) -> bool:
    taken = {found.lost.run_id for found in takeovers(claims(cluster.workers)) if found.next is not None}
    return taken >= run_ids


async def _over(session: aiohttp.ClientSession, created: dict[str, str]) -> bool:
    for run_id, thread_id in tuple(created.items()):
        async with session.get(f"threads/{thread_id}/runs/{run_id}") as response:
            status = (await response.json())["status"]
        if status in ("queued", "in_progress"):
            return False
        if status != "completed":
            raise AssertionError(f"{run_id} is {status}")
        del created[run_id]
    return True


def _asked(cluster: Cluster) -> dict[str, int]:
    """How often the model was asked for a run's first and second turn: the least and the most."""
    asked: Counter[tuple[str, int]] = Counter()
    for request in cluster.model.requests():
        messages = request["body"]["messages"]
        asked[messages[0]["content"][:8], len(messages) > 1] += 1
    first = [count for (_, second), count in asked.items() if not second]
    second = [count for (_, second), count in asked.items() if second]
    return {"first least": min(first), "first most": max(first), "least": min(second), "most": max(second)}


def _said(slot: Slot, event: str) -> float:
    return next(float(line["at"]) for line in slot.life.lines() if line["event"] == event)


def _cpu(slot: Slot) -> float:
    """Seconds of a processor that a process has used so far."""
    return float(sum(psutil.Process(slot.pid).cpu_times()[:2]))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the cases that were asked for, print a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--lease", type=float, default=30.0, help="seconds; of the frozen worker")
    parser.add_argument("--case", choices=get_args(Case), action="append", help="by default, all")
    options = parser.parse_args(arguments)
    allow_many()
    for case in options.case or get_args(Case):
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            Path(folder).chmod(0o711)
            figures = asyncio.run(measure(case, options.runs, Path(folder), options.lease))
        print(json.dumps({**figures, "wall": round(time.monotonic() - began, 1)}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
