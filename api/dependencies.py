"""What routers ask for: the process' resources, a transaction, and the project whose key was presented.

Two things must not be forgotten. The transaction has function scope: it commits, and tells what must be told, before
the response leaves. And no route may hold it while it waits for a model, a tool or a client.
"""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials

from api.leaving import Leaving
from api.sse import Streams
from orchestrator import projects
from orchestrator.db import Session
from orchestrator.events.watcher import Watcher
from orchestrator.openai_gateway import Gateway
from orchestrator.resources import Resources

bearer = HTTPBearer(auto_error=False, description="A key of one of this server's projects.")


async def _resources(request: Request) -> Resources:
    found: Resources = request.app.state.resources
    return found


async def _streams(request: Request) -> Streams:
    found: Streams = request.app.state.streams
    return found


async def _leaving(request: Request) -> Leaving:
    found: Leaving = request.app.state.leaving
    return found


async def _watcher(request: Request) -> Watcher:
    found: Watcher = request.app.state.watcher
    return found


async def _gateway(request: Request) -> Gateway:
    found: Gateway = request.app.state.gateway
    return found


async def _session(resources: Annotated[Resources, Depends(_resources)]) -> AsyncIterator[Session]:
    async with resources.database.transaction() as session:
        yield session


OpenResources = Annotated[Resources, Depends(_resources)]
ModelGateway = Annotated[Gateway, Depends(_gateway)]
Events = Annotated[Streams, Depends(_streams)]
Departure = Annotated[Leaving, Depends(_leaving)]
Rests = Annotated[Watcher, Depends(_watcher)]
Transaction = Annotated[Session, Depends(_session, scope="function")]


async def _project(
    request: Request,
    session: Transaction,
    _documented: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)] = None,
) -> str:
    request.state.project_id = await projects.authenticate(session, request.headers.get("authorization"))
    return str(request.state.project_id)


async def _authenticated(
    request: Request,
    resources: OpenResources,
    _documented: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)] = None,
) -> str:
    async with resources.database.transaction() as session:
        request.state.project_id = await projects.authenticate(session, request.headers.get("authorization"))
    return str(request.state.project_id)


ProjectId = Annotated[str, Depends(_project, scope="function")]
"""The id of the caller's project. Raises Unauthenticated."""
AUTHENTICATED = Depends(_authenticated)
"""For routes that wait for somebody else: the caller has a key, and no transaction is open. Raises Unauthenticated."""
CallerId = Annotated[str, AUTHENTICATED]
"""The id of the caller's project, for such routes."""
