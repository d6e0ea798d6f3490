"""What a process opens once and shares: the database, the writer of events, the listening side, the model."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis

from orchestrator import broker, db
from orchestrator.bounds import Bounds
from orchestrator.db import Database
from orchestrator.events.publisher import Publisher
from orchestrator.events.subscriber import Subscriber
from orchestrator.model import Model
from orchestrator.openai_model import OpenAIModel
from orchestrator.settings import Settings
from orchestrator.storage import Storage
from orchestrator.storage import opening as storages


@dataclass(frozen=True, slots=True)
class Resources:
    """The connections of one process."""

    settings: Settings
    database: Database
    redis: Redis
    subscriber: Subscriber
    model: Model
    storage: Storage


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Resources]:
    """Open everything, and close it in reverse; what is left to publish is sent first."""
    async with AsyncExitStack() as stack:
        redis = broker.connect(settings)
        stack.push_async_callback(redis.aclose)
        engine = db.engine(settings)
        stack.push_async_callback(engine.dispose)
        direct = await stack.enter_async_context(db.direct(settings).opened())
        publisher = await stack.enter_async_context(Publisher(redis, settings).running())
        subscriber = await stack.enter_async_context(Subscriber(redis, settings).running())
        model = await stack.enter_async_context(OpenAIModel(settings))
        storage = stack.enter_context(storages.opened(settings))
        bounds = Bounds(settings.project_runs, settings.upstream_runs, settings.project_queue)
        database = Database(engine, publisher, direct, webhooks=settings.webhook_url is not None, bounds=bounds)
        yield Resources(settings, database, redis, subscriber, model, storage)


@asynccontextmanager
async def beside(opened: Resources, connections: int) -> AsyncIterator[Database]:
    """The same database over connections of its own, and one of the short way, for what must not stand in line behind a
    process' runs: when many come at once, the line for a connection of the pool is longer than a lease.
    """
    common = opened.database
    engine = db.engine(opened.settings, connections=connections)
    try:
        async with db.direct(opened.settings, connections=1).opened() as direct:
            yield Database(engine, common.publisher, direct, webhooks=common.webhooks, bounds=common.bounds)
    finally:
        await engine.dispose()
