"""Work that is done while its client is there: who ends it, and what is left of the cancellation."""

import asyncio

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from api import waiting
from api.waiting import while_connected


class Client:
    """One that sends nothing more, and may leave."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}


async def never() -> None:
    await asyncio.get_running_loop().create_future()


async def test_work_that_ends_is_done_and_what_it_raises_is_raised() -> None:
    async def fail() -> None:
        raise KeyError("mine")

    assert await while_connected(Client().receive, asyncio.sleep(0))
    with pytest.raises(KeyError, match="mine"):
        await while_connected(Client().receive, fail())


async def test_work_is_given_up_when_its_client_leaves() -> None:
    client = Client()
    asyncio.get_running_loop().call_soon(client.left.set)

    with pytest.raises(ClientDisconnect):
        await while_connected(client.receive, never())

    await asyncio.sleep(0)  # nothing of the cancellation is left


async def test_work_is_given_up_when_the_process_leaves() -> None:
    leaving: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(leaving.set_result, None)

    assert not await while_connected(Client().receive, never(), leaving)
    await asyncio.sleep(0)


async def test_who_leaves_in_the_moment_in_which_the_work_ends_cancels_nothing_that_follows() -> None:
    leaving: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def leave() -> None:
        leaving.set_result(None)

    assert await while_connected(Client().receive, leave(), leaving)
    await asyncio.sleep(0)


async def test_a_cancellation_that_is_swallowed_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "INSIST", 0.01)
    client = Client()
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        client.left.set()
        while swallowed < 2:
            try:
                await never()
            except asyncio.CancelledError:
                swallowed += 1
        await never()

    with pytest.raises(ClientDisconnect):
        await while_connected(client.receive, stubborn())

    assert swallowed == 2
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_cancellation_from_elsewhere_is_not_taken_for_ours() -> None:
    client = Client()
    outer = asyncio.create_task(while_connected(client.receive, never()))
    await asyncio.sleep(0)

    client.left.set()
    outer.cancel()

    with pytest.raises(asyncio.CancelledError):
        await outer
