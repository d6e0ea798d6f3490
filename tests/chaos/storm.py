"""A storm over an installation: many clients at work while everything around them is killed, frozen, cut and restarted.

    python -m tests.chaos.storm --runs 1000 --seed 7

The runs and the blows follow from the seed (see `plan`); where exactly they meet does not: a machine is no clockwork.
What must be true afterwards is in `invariants`. The bounded form is test_storm.py.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import aiohttp

from orchestrator.open_files import allow_many
from tests.chaos import cluster as clusters
from tests.chaos import report
from tests.chaos.clients import HEADERS, TROUBLE, WAIT, WEATHER, Client
from tests.chaos.cluster import Cluster, PostgresStop, ValkeyStop, place, until
from tests.chaos.facts import Facts, gathered
from tests.chaos.history import History
from tests.chaos.invariants import violations
from tests.chaos.plan import Blow, Plan, drawn
from tests.chaos.slots import Loss, Slot

LEASE = 6.0
HASTY = "6"
"""Seconds that runs created at the last API instance live."""
CALM = 120.0
"""Seconds after the storm by which every client must have seen its runs end."""
TRIES = 120
"""Times, each half a second, that an API is asked whether threads are free."""
ATTEMPTS = "100"
"""Losses in a row that a run survives: a storm is harder on runs than poison. That one has tests of its own."""


@dataclass
class Aftermath:
    """What a storm has left behind."""

    plan: Plan
    facts: Facts
    wrong: list[str]
    figures: report.FIGURES


class Storm:
    """Strikes a cluster's parts, and keeps a list of what it did."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._frozen: set[str] = set()
        self.struck: list[Blow] = []

    async def rage(self, blows: Sequence[Blow]) -> None:
        """Strike each blow at its time; the next does not wait for the end of the last."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for blow in blows:
                await asyncio.sleep(max(0.0, began + blow.at - time.monotonic()))
                self.struck.append(replace(blow, at=time.time()))
                group.create_task(self._strike(blow))

    async def _strike(self, blow: Blow) -> None:
        what, _, how = blow.what.partition(" ")
        match what:
            case "postgres":
                await self._cluster.restart_postgres(cast("PostgresStop", how), blow.seconds)
            case "valkey":
                await self._cluster.restart_valkey(cast("ValkeyStop", how), blow.seconds)
            case "cut" | "blackhole":
                await self._disconnect(blow)
            case "freeze":
                await self._freeze(self._victim(self._cluster.workers, blow.target), blow.seconds)
            case _:
                slots = self._cluster.workers if how == "worker" else self._cluster.apis
                self._victim(slots, blow.target).lose(cast("Loss", what))

    def _victim(self, slots: Sequence[Slot], target: int) -> Slot:
        awake = [slot for slot in slots if slot.name not in self._frozen]
        return awake[target % len(awake)]

    async def _freeze(self, slot: Slot, seconds: float) -> None:
        self._frozen.add(slot.name)
        slot.lose("freeze")
        await asyncio.sleep(seconds)
        slot.thaw()
        self._frozen.discard(slot.name)

    async def _disconnect(self, blow: Blow) -> None:
        slots = self._cluster.workers if blow.link == "model" else self._cluster.slots
        proxy = slots[blow.target % len(slots)].proxies[blow.link]
        if blow.what == "cut":
            await asyncio.to_thread(proxy.cut)
            return
        await asyncio.to_thread(proxy.set_mode, "blackhole")
        await asyncio.sleep(blow.seconds)
        await asyncio.to_thread(proxy.set_mode, "pass")


async def weathered(plan: Plan, folder: Path, *, workers: int = 3) -> Aftermath:
    """Run a storm from its beginning to the last check."""
    terms = {"ASSISTANTD_RUN_LEASE": str(LEASE), "ASSISTANTD_STREAM_PING": "2", "ASSISTANTD_RUN_ATTEMPTS": ATTEMPTS}
    began = time.monotonic()
    async with clusters.running(folder, apis=2, workers=workers, proxied=True, **terms) as cluster:
        hasty = cluster.add("api", ASSISTANTD_RUN_LIFETIME=HASTY)
        await cluster.ready(hasty)
        keeping = asyncio.create_task(cluster.keep())
        try:
            facts = await _through(plan, cluster, [f"{slot.base_url}/v1" for slot in cluster.apis])
        finally:
            keeping.cancel()
    wrong = violations(facts)
    return Aftermath(plan, facts, wrong, report.figures(plan, facts, time.monotonic() - began, wrong))


async def _through(plan: Plan, cluster: Cluster, apis: Sequence[str]) -> Facts:
    storm = Storm(cluster)
    async with aiohttp.ClientSession(headers=HEADERS, connector=aiohttp.TCPConnector(limit=0)) as session:
        body = {"model": "gpt-4o", "tools": [WEATHER]}
        async with session.post(f"{apis[0]}/assistants", json=body, timeout=WAIT) as response:
            assistant = (await response.json())["id"]
        *common, hasty = apis
        clients = [Client(session, common, hasty, assistant, each) for each in plan.conversations]
        conversing = [asyncio.create_task(client.begin()) for client in clients]
        await storm.rage(plan.blows)
        await asyncio.wait(conversing, timeout=plan.seconds + CALM)
        histories = [history for client in clients for history in client.histories]
        for client, task in zip(clients, conversing, strict=True):
            _note_end(client.histories, task)
        await until(lambda: cluster.model.state()["open_streams"] == 0, "the model is left in peace")
        facts = await gathered(cluster, histories, storm.struck, ())
        facts.locked = await _locked(session, common[0], histories)
        return facts


def _note_end(histories: Sequence[History], task: "asyncio.Task[None]") -> None:
    if not task.done():
        task.cancel()
        histories[0].odd.append("the client still waits")
    elif (error := task.exception()) is not None:
        histories[0].odd.append(f"the client gave up: {error!r}")


async def _locked(session: aiohttp.ClientSession, api: str, histories: Sequence[History]) -> list[str]:
    """The threads that take no message; what waits for its client is cancelled first."""
    refusing: list[str] = []
    room = asyncio.Semaphore(20)

    async def post(path: str, body: object) -> int:
        """The status, of an API that may just be starting again after the last blow."""
        for _ in range(TRIES):
            with suppress(*TROUBLE):
                async with room, session.post(f"{api}{path}", json=body, timeout=WAIT) as response:
                    if response.status != 503:
                        return response.status
            await asyncio.sleep(0.5)
        return 0

    async def one(history: History) -> None:
        if history.status == "requires_action":
            await post(f"/threads/{history.thread_id}/runs/{history.run_id}/cancel", None)
        if await post(f"/threads/{history.thread_id}/messages", {"role": "user", "content": "Thanks."}) != 200:
            refusing.append(history.thread_id)

    await asyncio.gather(*(one(history) for history in histories))
    return refusing


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a storm, print its report; the exit code says whether all was well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=None, help="by default, a quarter of a second for each run")
    parser.add_argument("--pace", type=float, default=5.0, help="seconds between two losses of a worker")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--json", type=Path, default=None, help="where to write the figures")
    parser.add_argument("--keep", type=Path, default=None, help="a folder to make and keep: logs, data, facts.json")
    options = parser.parse_args(arguments)
    allow_many()
    seconds = options.seconds or options.runs / 4
    plan = drawn(options.seed, runs=options.runs, seconds=seconds, pace=options.pace, lease=LEASE)
    if options.keep is not None:
        options.keep.mkdir(mode=0o711)
        after = asyncio.run(weathered(plan, options.keep))
        facts = json.dumps(asdict(after.facts), default=str, indent=1)
        (options.keep / "facts.json").write_text(facts)
    else:
        with place() as folder:
            after = asyncio.run(weathered(plan, folder))
    print(report.table(after.figures))  # noqa: T201
    if options.json is not None:
        options.json.write_text(json.dumps(after.figures, indent=2))
    sys.exit(bool(after.wrong))


if __name__ == "__main__":
    main()
