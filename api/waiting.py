"""Answers that take their time: whoever no longer listens is not worked for."""

import asyncio
from collections.abc import Coroutine

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from orchestrator.background import end
from orchestrator.foreign import Json


async def while_connected(
    receive: Receive, work: Coroutine[Json, Json, None], until: "asyncio.Future[None] | None" = None
) -> bool:
    """Do `work` while the client is there; False if `until` came first, and the work was given up.

    Raises the work's errors, and ClientDisconnect when the client has gone away. `receive` is the request's, whose body
    has been read.
    """
    working, departing = asyncio.create_task(work), asyncio.create_task(_gone(receive))
    ends: list[asyncio.Future[None]] = [working, departing] if until is None else [working, departing, until]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
            return True
        if departing.done():
            raise ClientDisconnect
        return False
    finally:
        await end(working, departing)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
