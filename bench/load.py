"""Load: so many clients, or so many calls a second, from processes of their own, and what each call felt.

Three ways to offer it (`Load.way`):
  loop    each of `clients` calls again as soon as it was answered; they start spread over `spread` seconds
  burst   all `clients` call at the same moment, `rounds` times, each time when the last of them was answered
  rate    calls come at random moments, `rate` a second, whether the others were answered or not; what a call waited
          because we were late to send it counts as its own

There are at most `most` calls. What a call is, is named by its job, see `bench.calls`.
"""

import asyncio
import gc
import multiprocessing
import random
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Literal

import uvloop

from bench.calls import CALLS, Job
from bench.client import Answer, Client
from bench.report import percentile
from orchestrator.open_files import allow_many


@dataclass(frozen=True)
class Load:
    """What is offered, by each process."""

    job: Job
    way: Literal["loop", "burst", "rate"] = "loop"
    clients: int = 1
    seconds: float = 5.0
    rounds: int = 1
    rate: float = 1.0
    spread: float = 0.0
    pause: float = 0.0
    most: int = 10**9
    seed: int = 1


@dataclass
class Felt:
    """What the calls felt, in seconds. `cpu` is ours, of all processes; `elapsed` is what the longest of them took."""

    firsts: list[float] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    tokens: int = 0
    elapsed: float = 0.0
    cpu: float = 0.0
    failed: int = 0
    why: str = ""

    @property
    def per_second(self) -> float:
        """Calls answered well, a second."""
        return len(self.totals) / self.elapsed if self.elapsed else 0.0

    def first(self, share: float = 0.5) -> float:
        """A percentile of the time to the first token."""
        return percentile(self.firsts, share)

    def total(self, share: float = 0.5) -> float:
        """A percentile of the time to the end."""
        return percentile(self.totals, share)

    def gap(self, share: float = 0.5) -> float:
        """A percentile of the time between two reads with tokens."""
        return percentile(self.gaps, share)

    def add(self, answer: Answer, late: float = 0.0) -> None:
        """Count one answer."""
        if answer.status != 200 or not answer.ended:
            self.fail(f"{answer.status} {answer.body[:300]!r} {answer.tokens} tokens, ended: {answer.ended}")
            return
        self.totals.append(late + answer.total)
        if answer.first:
            self.firsts.append(late + answer.first)
            self.tokens += answer.tokens
            self.gaps += [later - earlier for earlier, later in zip(answer.reads, answer.reads[1:], strict=False)]

    def fail(self, why: str) -> None:
        """Count a call that went wrong; the first reason is kept."""
        self.failed += 1
        self.why = self.why or why


def together(parts: Sequence[Felt]) -> Felt:
    """The sum of what several processes, or several rounds one after another, felt; `elapsed` is the longest."""
    whole = Felt()
    for part in parts:
        whole.firsts += part.firsts
        whole.totals += part.totals
        whole.gaps += part.gaps
        whole.tokens += part.tokens
        whole.elapsed = max(whole.elapsed, part.elapsed)
        whole.cpu += part.cpu
        whole.failed += part.failed
        whole.why = whole.why or part.why
    return whole


class Generator:
    """Processes that offer load; start one and use it often, for they take a moment to start."""

    def __init__(self, processes: int = 1) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(processes, mp_context=context)
        self._processes = processes

    def __enter__(self) -> "Generator":
        for ready in [self._pool.submit(allow_many) for _ in range(self._processes)]:
            ready.result(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def offer(self, *loads: Load) -> list[Felt]:
        """Offer them all at the same time, each from one process; at most as many as there are processes."""
        return [felt.result() for felt in [self.begin(load) for load in loads]]

    def begin(self, load: Load) -> "Future[Felt]":
        """Offer one load from one process, meanwhile others can be offered from the others."""
        return self._pool.submit(offer, load)

    def share(self, load: Load) -> Felt:
        """Offer one load from all processes, each its part of the clients or of the rate."""
        parts = [
            replace(
                load,
                clients=(load.clients + index) // self._processes,
                rate=load.rate / self._processes,
                seed=load.seed + index,
            )
            for index in range(self._processes)
        ]
        return together(self.offer(*(part for part in parts if part.clients)))


def offer(load: Load) -> Felt:
    """Offer a load from this process and return what was felt."""
    allow_many()
    return uvloop.run(_offer(load))


async def _offer(load: Load) -> Felt:
    client = Client(load.job.base_url, load.job.key)
    felt = Felt()
    ways = {"loop": _loop, "burst": _burst, "rate": _rate}
    await client.prepare(load.clients if load.way != "rate" else 8)
    gc.collect()
    gc.disable()  # a collection of a long list of answers would be felt by all
    cpu, began = time.process_time(), time.perf_counter()
    try:
        await ways[load.way](client, load, felt)
    finally:
        gc.enable()
        await client.close()
    felt.elapsed, felt.cpu = time.perf_counter() - began, time.process_time() - cpu
    return felt


async def _loop(client: Client, load: Load, felt: Felt) -> None:
    over = time.perf_counter() + load.seconds
    numbers = iter(range(load.most))

    async def one_after_another(index: int) -> None:
        await asyncio.sleep(load.spread * index / load.clients)
        while time.perf_counter() < over and (number := next(numbers, None)) is not None:
            await _call(client, load.job, felt, number)
            if load.pause:
                await asyncio.sleep(load.pause)

    async with asyncio.TaskGroup() as group:
        for index in range(load.clients):
            group.create_task(one_after_another(index))


async def _burst(client: Client, load: Load, felt: Felt) -> None:
    for number in range(load.rounds):
        async with asyncio.TaskGroup() as group:
            for index in range(load.clients):
                group.create_task(_call(client, load.job, felt, number * load.clients + index))
        await asyncio.sleep(load.pause)


async def _rate(client: Client, load: Load, felt: Felt) -> None:
    chance = random.Random(load.seed)
    due = time.perf_counter()
    over = due + load.seconds
    number = 0
    async with asyncio.TaskGroup() as group:
        while due < over and number < load.most:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(_call(client, load.job, felt, number, due))
            due += chance.expovariate(load.rate)
            number += 1


async def _call(client: Client, job: Job, felt: Felt, number: int, due: float | None = None) -> None:
    late = 0.0 if due is None else time.perf_counter() - due
    try:
        answer = await CALLS[job.call](client, job, number)
    except OSError as error:
        felt.fail(repr(error))
    else:
        felt.add(answer, late)
