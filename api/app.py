"""The API process: `create_app` is the factory that the server calls."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import APIRouter, FastAPI
from fastapi_offline import FastAPIOffline

from api import document, errors, plain
from api.beta import ASSISTANTS_V2
from api.context import RequestContext
from api.express import Express
from api.leaving import Leaving
from api.limits import BodyLimit, JsonBodies
from api.routers import assistants, files, gateway, health, messages, models, run_steps, runs, threads, uploads
from api.sse import Streams
from orchestrator import db, garbage, logs, resources
from orchestrator.agreement import keep_agreement
from orchestrator.background import background
from orchestrator.events.follower import Follower
from orchestrator.events.watcher import Watcher
from orchestrator.housekeeping import keep_the_time
from orchestrator.openai_gateway import Gateway
from orchestrator.outcomes import outcome_of
from orchestrator.settings import Settings, get_settings

DESCRIPTION = """
The Assistants API, hosted by whoever wants to: change `base_url`, nothing else.

Extensions of the original, which clients that do not know them never meet:

- `on_active_run` of runs and threads: a run that is created while another is active is refused (`reject`, as it was),
  waits for its turn (`enqueue`) or takes it (`interrupt`);
- `GET /v1/threads` lists threads, by metadata too;
- `wait` on `GET /v1/threads/{thread_id}/runs/{run_id}`: the answer comes when the run is over or waits for outputs;
- `GET /v1/threads/{thread_id}/runs/{run_id}/events` follows a run that is under way; every event stream has event ids
  and resumes with `Last-Event-ID`.

Answers about runs that move say in `openai-poll-after-ms` when to ask again.
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application; it opens its connections when the server starts it."""
    chosen = settings or get_settings()
    if settings is None:
        logs.configure(chosen)

    app = FastAPIOffline(  # its documentation page needs no other host
        title="assistantd",
        version="1",
        description=DESCRIPTION,
        lifespan=partial(_serving, settings=chosen, alone=settings is None),
        redoc_url=None,
        strict_content_type=False,
        redirect_slashes=False,
    )
    app.state.leaving = Leaving()
    errors.install(app)
    document.install(app)
    v1 = APIRouter(prefix="/v1")
    for module in (assistants, runs, threads, messages, run_steps):  # /threads/runs goes before /threads/{id}
        v1.include_router(module.router, dependencies=[ASSISTANTS_V2])
    for module in (files, uploads, models, gateway):
        v1.include_router(module.router)
    app.include_router(v1)
    app.include_router(health.router)
    app.add_middleware(JsonBodies)
    app.add_middleware(BodyLimit, limit=chosen.body_limit)
    app.add_middleware(Express)
    app.add_middleware(RequestContext, organization=chosen.organization)
    return app


@asynccontextmanager
async def _serving(app: FastAPI, settings: Settings, *, alone: bool) -> AsyncIterator[None]:
    """What requests find in the application's state, while it serves. `alone`: the process is this application's."""
    async with resources.opened(settings) as opened, Gateway(settings) as passing_on:
        app.state.resources = opened
        app.state.watcher = watcher = Watcher(opened.subscriber)
        follower = Follower(opened.subscriber, outcome_of(opened.database), settings)
        app.state.streams = streams = Streams(follower, app.state.leaving)
        app.state.means = plain.means(opened, streams, watcher, app.state.leaving)
        app.state.gateway = passing_on
        app.state.probing = probing = db.direct(settings, connections=1)
        agreeing = keep_agreement(opened.redis, "api", opened.database.bounds)
        async with (
            probing.opened(),
            background(keep_the_time(opened.database), "timekeeping"),
            background(agreeing, "agreement"),
        ):
            if alone:
                garbage.settle()
            yield
