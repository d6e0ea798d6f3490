"""/healthz: the process lives. /readyz: it can serve."""

import asyncio

from fastapi import APIRouter, Response
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from api.dependencies import OpenResources
from orchestrator.resources import Resources
from orchestrator.wire import objects

router = APIRouter(tags=["Health"])

PATIENCE = 5.0
"""Seconds that each part has to answer."""
TROUBLE = (RedisError, SQLAlchemyError, OSError, TimeoutError)


@router.get("/healthz", operation_id="getHealth")
async def health() -> Response:
    """Say that the process lives; nothing else is asked."""
    return Response(objects.dump({"status": "ok"}), media_type="application/json")


@router.get("/readyz", operation_id="getReadiness", responses={503: {"description": "A part does not answer."}})
async def readiness(resources: OpenResources) -> Response:
    """Say whether requests can be served: 200 if database and broker answer, otherwise 503 with what does not."""
    parts = {"database": await _database(resources), "broker": await _broker(resources)}
    ready = all(state == "ok" for state in parts.values())
    body = objects.dump({"status": "ok" if ready else "unavailable", **parts})
    return Response(body, 200 if ready else 503, media_type="application/json")


async def _database(resources: Resources) -> str:
    try:
        async with asyncio.timeout(PATIENCE), resources.database.engine.connect() as connection:
            await connection.execute(text("SELECT id FROM projects LIMIT 1"))
    except TROUBLE as error:
        return type(error).__name__
    return "ok"


async def _broker(resources: Resources) -> str:
    try:
        async with asyncio.timeout(PATIENCE):
            await resources.redis.ping()
    except TROUBLE as error:
        return type(error).__name__
    return "ok"
