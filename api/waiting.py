"""Answers that take their time: whoever no longer listens is not worked for."""

import asyncio
from collections.abc import Coroutine

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from orchestrator.foreign import Json


async def while_connected(receive: Receive, work: Coroutine[Json, Json, None]) -> None:
    """Do `work` while the client is there. Raises the work's errors, and ClientDisconnect when it has gone away.

    `receive` is the request's, whose body has been read.
    """
    working, leaving = asyncio.create_task(work), asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
