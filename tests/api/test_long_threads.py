"""A thread of 10,000 messages, walked while others write to it: each is seen exactly once, in order."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx2
import openai
import pytest
import pytest_asyncio
from sqlalchemy import insert

from orchestrator.db import Session, engine
from orchestrator.tables import Message
from tests.api.http import PLAIN, Http
from tests.stack import API_KEY, Stack

MESSAGES = 10_000
DECOY = 7
"""One message after so many may be deleted meanwhile."""
NEAR = 300
"""Messages around the walker's place that nobody deletes: a cursor has to be there when it is used."""


@dataclass
class LongThread:
    """The ids of the messages that stay and of those that may go, and how far the walker is."""

    id: str
    all: list[str]
    staying: list[str] = field(default_factory=list)
    decoys: dict[str, int] = field(default_factory=dict)
    seen: int = 0

    def __post_init__(self) -> None:
        self.decoys = {id_: place for place, id_ in enumerate(self.all) if place % DECOY == 0}
        self.staying = [id_ for id_ in self.all if id_ not in self.decoys]

    def note(self, id_: str) -> None:
        """The walker has come to this message."""
        self.seen = self.decoys.get(id_, self.seen)

    def expendable(self) -> str | None:
        """A decoy far from the walker; each only once."""
        return next((id_ for id_, place in self.decoys.items() if abs(place - self.seen) > NEAR), None)


@pytest_asyncio.fixture
async def long_thread(http: Http, working: Stack) -> LongThread:
    thread_id = http.thread()["id"]
    count = MESSAGES + MESSAGES // (DECOY - 1) + 1
    ids = [f"msg_{thread_id.removeprefix('thread_')}{number}" for number in range(count)]
    content = [{"type": "text", "text": {"value": "Hi", "annotations": []}}]
    row = {"thread_id": thread_id, "role": "user", "content": content, "metadata_": {}}
    own = engine(working.settings)
    async with Session(own) as session, session.begin():
        await session.execute(insert(Message), [{"id": id_, **row} for id_ in ids])
    await own.dispose()
    return LongThread(thread_id, ids)


@asynccontextmanager
async def busy(thread: LongThread, base_url: str) -> AsyncIterator[None]:
    """Somebody who adds messages to the thread and deletes others, all the time."""
    headers = {"Authorization": f"Bearer {API_KEY}"}
    over, path, done = asyncio.Event(), f"/threads/{thread.id}/messages", 0

    async def write(client: httpx2.AsyncClient) -> None:
        nonlocal done
        while not over.is_set():
            answer = await client.post(path, json={"role": "user", "content": "and more"})
            assert answer.status_code == 200, answer.text
            if id_ := thread.expendable():
                del thread.decoys[id_]
                answer = await client.delete(f"{path}/{id_}")
                assert answer.status_code == 200, answer.text
            done += 1

    async with httpx2.AsyncClient(base_url=base_url, headers=headers, verify=PLAIN, timeout=30) as client:
        writer = asyncio.create_task(write(client))
        try:
            yield
        finally:
            over.set()
            await writer
    assert done > 20


Walk = Callable[[openai.AsyncOpenAI, LongThread, str], Awaitable[list[str]]]


async def by_the_official_pager(client: openai.AsyncOpenAI, thread: LongThread, order: str) -> list[str]:
    found = []
    async for message in client.beta.threads.messages.list(thread.id, limit=100, order=order):  # type: ignore[arg-type]
        thread.note(message.id)
        found.append(message.id)
    return found


async def by_hand(client: openai.AsyncOpenAI, thread: LongThread, order: str) -> list[str]:
    found: list[str] = []
    query = {"limit": "97", "order": order}
    while True:
        page = await client.get(f"/threads/{thread.id}/messages", cast_to=object, options={"params": query})
        assert isinstance(page, dict)
        found += [message["id"] for message in page["data"]]
        for id_ in found[-97:]:
            thread.note(id_)
        if not page["has_more"]:
            return found
        query["after"] = page["last_id"]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("walk", [by_the_official_pager, by_hand])
async def test_ten_thousand_messages_are_each_seen_once_in_order_while_others_write(
    async_client: openai.AsyncOpenAI, long_thread: LongThread, working: Stack, walk: Walk, order: str
) -> None:
    staying = long_thread.staying if order == "asc" else long_thread.staying[::-1]

    async with busy(long_thread, working.base_url):
        found = await walk(async_client, long_thread, order)

    assert len(staying) >= MESSAGES
    assert len(found) == len(set(found))
    kept = set(staying)
    assert [id_ for id_ in found if id_ in kept] == staying
