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
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, Literal, get_args

import aiohttp
import psutil

from orchestrator.open_files import allow_many
from tests.chaos import cluster as clusters
from tests.chaos.cluster import Cluster, place, until
from tests.chaos.slots import Slot
from tests.chaos.traces import claims, percentile, takeovers
from tests.stack import API_KEY

Case = Literal["one of two", "the only one", "frozen"]
HEADERS = {"Authorization": f"Bearer {API_KEY}"}
AT_ONCE = 25
"""Runs that are created at the same time."""
GATE = "lost"
"""Where the model waits in the middle of each run's second turn."""
QUESTION = 'run-{number:04} [[tool=no_such_tool:{{}}]] [[text="One two three." hold=lost hold_after=1]]'


async def measure(cluster: Cluster, case: Case, runs: int, lease: float = 30.0) -> dict[str, Any]:
    """The figures of one case, on a cluster that has one worker, or none; the heir stays. Raises TimeoutError if not
    all runs are taken over, and end.
    """
    cluster.model.reset()
    terms = {"ASSISTANTD_RUN_LEASE": str(lease)}
    victim = heir = cluster.workers[0] if cluster.workers else cluster.add("worker", **terms)
    await cluster.ready(victim)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(f"{cluster.apis[0].base_url}/v1/", headers=HEADERS, timeout=timeout) as session:
        created = await _in_flight(cluster, session, runs)
        if case != "the only one":
            heir = cluster.add("worker", **terms)
            await cluster.ready(heir)
        load = os.getloadavg()[0]
        lost_at = victim.lose("freeze" if case == "frozen" else "kill")
        if case == "the only one":
            heir.start()
        used = _cpu(heir)
        await until(lambda: len(_taken(cluster, created)) == runs, "all runs are taken over", patience=90 + lease)
        used = _cpu(heir) - used
        await until(lambda: len(_asked_since(cluster, lost_at)) >= runs, "the model is asked again for all")
        if case == "frozen":
            victim.thaw()
        cluster.model.release(GATE)
        await until(lambda: _over(session, dict(created)), "all runs are completed")
    seconds = list(_taken(cluster, created).values())
    ready = _said(heir, "worker_ready") - lost_at
    figures = {
        "case": case,
        "runs": runs,
        "taken over": len(seconds),
        "first": round(min(seconds), 2),
        "p50": round(percentile(seconds, 0.5) or 0.0, 2),
        "p99": round(percentile(seconds, 0.99) or 0.0, 2),
        "max": round(max(seconds), 2),
        **({"lease": lease} if case == "frozen" else {}),
        **({"worker ready": round(ready, 2)} if case == "the only one" else {}),
        **_asked_again(cluster, lost_at),
        "asked": _asked(cluster),
        "heir cpu": round(used, 2),
        "load": round(load, 2),
    }
    if victim is not heir:
        cluster.remove(victim)
    return figures


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
    waiting: int = cluster.model.state()["gates"].get(GATE, {}).get("waiting", 0)
    return waiting


def _taken(cluster: Cluster, run_ids: Collection[str]) -> dict[str, float]:
    """How soon each of these runs was taken over, of those that were."""
    found = [taken for taken in takeovers(claims(cluster.workers)) if taken.run_id in run_ids]
    return {taken.run_id: taken.seconds for taken in found if taken.seconds is not None}


async def _over(session: aiohttp.ClientSession, created: dict[str, str]) -> bool:
    for run_id, thread_id in created.items():
        async with session.get(f"threads/{thread_id}/runs/{run_id}") as response:
            status = (await response.json())["status"]
        if status in ("queued", "in_progress"):
            return False
        if status != "completed":
            raise AssertionError(f"{run_id} is {status}")
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


def _asked_again(cluster: Cluster, lost_at: float) -> dict[str, float]:
    """How soon the model was asked again, of all runs: then they go on."""
    again = _asked_since(cluster, lost_at)
    return {f"asked {name}": round(percentile(again, share) or 0.0, 2) for name, share in (("p50", 0.5), ("p99", 0.99))}


def _asked_since(cluster: Cluster, moment: float) -> list[float]:
    return [request["at"] - moment for request in cluster.model.requests() if request["at"] > moment]


def _said(slot: Slot, event: str) -> float:
    return next(float(line["at"]) for line in slot.life.lines() if line["event"] == event)


def _cpu(slot: Slot) -> float:
    """Seconds of a processor that a process has used so far."""
    return float(sum(psutil.Process(slot.pid).cpu_times()[:2]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the cases that were asked for, print a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--lease", type=float, default=30.0, help="seconds; of the frozen worker")
    parser.add_argument("--case", choices=get_args(Case), action="append", help="by default, all")
    options = parser.parse_args(arguments)
    allow_many()
    asyncio.run(_all(options.case or get_args(Case), options.runs, options.lease))


async def _all(cases: Sequence[Case], runs: int, lease: float) -> None:
    with place() as folder:
        async with clusters.running(folder) as cluster:
            for case in cases:
                print(json.dumps(await measure(cluster, case, runs, lease)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
