"""Answers that take their time: whoever no longer listens is not worked for."""

import asyncio
from collections.abc import Coroutine

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from orchestrator.background import INSIST
from orchestrator.foreign import Json


async def while_connected(
    receive: Receive, work: Coroutine[Json, Json, None], until: "asyncio.Future[None] | None" = None
) -> bool:
    """Do `work` while the client is there; False if `until` came first, and the work was given up.

    Raises the work's errors, and ClientDisconnect when the client has gone away. `receive` is the request's, whose body
    has been read. The work is done in the caller's task: another one for each stream would cost as much as all that is
    relayed by a short one.
    """
    departing = asyncio.create_task(_gone(receive))
    giving_up = _GivingUp()
    departing.add_done_callback(giving_up)
    if until is not None:
        until.add_done_callback(giving_up)
    try:
        await work
        return True
    except asyncio.CancelledError:
        if not giving_up.meant():
            raise
    finally:
        giving_up.end()
        if until is not None:
            until.remove_done_callback(giving_up)
        departing.cancel()
    if departing.done():
        raise ClientDisconnect
    return False


class _GivingUp:
    """Cancels what the task that makes it is at, again and again if need be: one cancellation is easily swallowed."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._before = self._task.cancelling() if self._task is not None else 0
        self._asked = 0
        self._over = False
        self._again: asyncio.TimerHandle | None = None

    def __call__(self, _done: object) -> None:
        """Do so from now on until the end. It may come late: what was done has its callbacks called a moment later."""
        if not self._over and self._again is None:
            self._insist()

    def meant(self) -> bool:
        """Whether the cancellation that came was ours, and nobody else's."""
        return self._asked > 0 and self._task is not None and self._task.cancelling() - self._before <= self._asked

    def end(self) -> None:
        """The task goes on as if nothing had happened."""
        self._over = True
        if self._again is not None:
            self._again.cancel()
        for _ in range(self._asked):
            if self._task is not None:
                self._task.uncancel()

    def _insist(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._asked += 1
        self._again = asyncio.get_running_loop().call_later(INSIST, self._insist)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
