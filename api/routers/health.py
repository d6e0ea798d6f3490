"""/healthz: the process lives. /readyz: it can serve.

Not ready is a process that is about to end, whose database does not answer, or has an older schema than this release.
Without the broker it serves all the same, though less well: everything is told by polling, and runs begin when it is
back. If that took all instances out of service, polling would be refused as well; see ADR 0015. The database is asked
over a connection of the probe's own: in a line behind a thousand requests, an instance that is merely busy would look
like one that cannot serve.
"""

import asyncio

import asyncpg
from fastapi import APIRouter, Request, Response
from redis.exceptions import RedisError

from api.dependencies import Departure, OpenResources
from orchestrator.direct import Direct
from orchestrator.migrations import serves
from orchestrator.resources import Resources
from orchestrator.wire import objects

router = APIRouter(tags=["Health"])

PATIENCE = 5.0
"""Seconds that the database has to answer."""
BRIEF = 0.8
"""Seconds that the broker has, which decides about a word only: probes that wait a second must hear it from all."""
TROUBLE = (
    RedisError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)


@router.get("/healthz", operation_id="getHealth")
async def health() -> Response:
    """Say that the process lives; nothing else is asked."""
    return Response(objects.dump({"status": "ok"}), media_type="application/json")


@router.get("/readyz", operation_id="getReadiness", responses={503: {"description": "It cannot serve, or leaves."}})
async def readiness(request: Request, resources: OpenResources, departure: Departure) -> Response:
    """Say whether requests can be served: 200, with `degraded` while the broker is away, or 503 with what is wrong."""
    if departure.draining:
        return _answer("draining")
    database, broker = await asyncio.gather(_database(request.app.state.probing), _broker(resources))
    served = "ok" if broker == "ok" else "degraded"
    return _answer(served if database == "ok" else "unavailable", database=database, broker=broker)


def _answer(status: str, **parts: str) -> Response:
    code = 200 if status in ("ok", "degraded") else 503
    return Response(objects.dump({"status": status, **parts}), code, media_type="application/json")


async def _database(probing: Direct) -> str:
    """A schema that is newer than ours is fine: the next release is being rolled out."""
    try:
        async with asyncio.timeout(PATIENCE):
            found = await probing.fetch("SELECT max(version_num) FROM alembic_version")
    except TROUBLE as error:
        return type(error).__name__
    return "ok" if serves(found[0][0]) else "not migrated"


async def _broker(resources: Resources) -> str:
    try:
        async with asyncio.timeout(BRIEF):
            await resources.redis.ping()
    except TROUBLE as error:
        return type(error).__name__
    return "ok"
