"""The task that carries a run on, and what a worker process opens around all of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from orchestrator import garbage, housekeeping, marker, presence, resources, storekeeping, webhooks
from orchestrator.agreement import keep_agreement
from orchestrator.background import background
from orchestrator.db import Database
from orchestrator.errors import RunCancelled
from orchestrator.events.publisher import CANCELS
from orchestrator.execution.images import Illustrated
from orchestrator.execution.runner import Runner
from orchestrator.lifecycle import EXECUTE
from orchestrator.presence import Presence
from orchestrator.resources import Resources
from orchestrator.settings import Settings, get_settings
from orchestrator.webhooks import Courier
from workers.app import app
from workers.consumer import reconnected
from workers.pool import async_task, lifespan, mannered
from workers.watchdog import watched

log = structlog.get_logger(__name__)

UPKEEP = 2
"""Connections of the heartbeat and of housekeeping."""
SHORTEST_HANG = 10.0
"""Seconds that the event loop may hang in any case."""


class Worker:
    """What the tasks of this process share while its pool lives."""

    resources: Resources
    runner: Runner
    courier: Courier


@lifespan
@asynccontextmanager
async def life() -> AsyncIterator[None]:
    """Open the process' connections, show that it lives, listen for cancels, and be ready to keep house."""
    settings = get_settings()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(watched(max(settings.run_lease, SHORTEST_HANG)))
        Worker.resources = opened = await stack.enter_async_context(resources.opened(settings))
        owner = presence.new_owner()
        model = Illustrated(opened.model, opened.database, opened.storage)
        Worker.runner = runner = Runner(opened.database, model, owner, settings)
        stack.push_async_callback(runner.close)
        mannered(runner.drain, settings.shutdown_grace)
        upkeep = await stack.enter_async_context(resources.beside(opened, UPKEEP))
        shown = await stack.enter_async_context(presence.present(owner, runner, upkeep, settings))

        def cancel(run_id: bytes | None) -> None:
            if run_id is not None:  # a lost signal is no loss: the next line or heartbeat sees the cancel
                runner.interrupt(run_id.decode(), RunCancelled())

        await stack.enter_async_context(opened.subscriber.listening(CANCELS, cancel, at_once=False))
        learning = runner.windows.keep_fresh(opened.model)
        await stack.enter_async_context(background(learning, "context windows"))
        keeping = _keep_house(upkeep, shown, settings)
        await stack.enter_async_context(background(keeping, "housekeeping"))
        marking = marker.keep_marker(opened.database, opened.redis, settings.housekeeping_interval, reconnected)
        await stack.enter_async_context(background(marking, "marker"))
        agreeing = keep_agreement(opened.redis, "worker", opened.database.bounds)
        await stack.enter_async_context(background(agreeing, "agreement"))
        storing = _keep_store(opened, settings.storage_sweep_interval)
        await stack.enter_async_context(background(storing, "storekeeping"))
        Worker.courier = await stack.enter_async_context(Courier(opened.database, settings))
        if settings.webhook_url is not None:
            posting = _keep_posting(opened.database, settings.webhook_sweep_interval)
            await stack.enter_async_context(background(posting, "webhooks"))
        garbage.settle(settings.run_concurrency)
        log.info("worker_ready", owner=owner)
        yield


async def _keep_house(database: Database, shown: Presence, settings: Settings) -> None:
    while True:
        try:
            await housekeeping.look(database, settings.run_attempts, settings.run_lease, shown.may_judge)
        except Exception as error:  # the next sweep tries again, whatever it was
            log.warning("sweep_failed", error=repr(error))
            await database.back()  # says once that it is away, and when it is back
        await asyncio.sleep(settings.housekeeping_interval)


async def _keep_store(opened: Resources, interval: float) -> None:
    """Apart from the other housekeeping: a storage that is away must not hold up runs."""
    while True:
        more = False
        try:
            more = (await storekeeping.look(opened.database, opened.storage)).more
        except Exception as error:  # the next sweep tries again, whatever it was
            log.warning("storage_sweep_failed", error=repr(error))
            await opened.database.back()
        await asyncio.sleep(0 if more else interval)


async def _keep_posting(database: Database, interval: float) -> None:
    while True:
        try:
            await webhooks.sweep(database)
        except Exception as error:  # the next sweep tries again, whatever it was
            log.warning("webhook_sweep_failed", error=repr(error))
            await database.back()
        await asyncio.sleep(interval)


@async_task(app, name=EXECUTE)
async def execute(run_id: str, attempt: int | None = None) -> None:
    """Carry a run to rest; a wake-up that comes twice or too late does nothing."""
    await Worker.runner.run(run_id, attempt)
