"""A deploy under load: every process is replaced, one after another, and the clients' streams go on elsewhere.

Each client holds one conversation after the other until all is replaced. `ASSISTANTD_STORM=long` makes them 200.
"""

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.api.http import WEATHER
from tests.chaos import cluster as clusters
from tests.chaos.cluster import Cluster, until
from tests.chaos.slots import Slot
from tests.stack import API_KEY

LONG = os.environ.get("ASSISTANTD_STORM") == "long"
CLIENTS = 200 if LONG else 16
TOKENS = 30 if LONG else 10
CALL = "[[tool=no_such_tool:{} first=0.8]]"
"""A turn whose call the worker answers itself: a checkpoint."""
TURNS = f"{CALL} {CALL} [[tokens={TOKENS} first=0.3 delay={0.2 if LONG else 0.1}]]"
TEXT = "".join(f"word{number} " for number in range(TOKENS))
PATIENCE = 300.0

WAIT = aiohttp.ClientTimeout(total=None, sock_connect=60, sock_read=60)
TROUBLE = (aiohttp.ClientError, OSError, TimeoutError)
"""What a client sees of a process that has just gone: refused, reset."""


@dataclass
class Heard:
    """One conversation, as its client heard it."""

    word: str
    thread_id: str = ""
    events: list[tuple[str, str, Any]] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    path: str | None = None

    def __str__(self) -> str:
        told = ", ".join(f"{id_} {name.removeprefix('thread.')}" for id_, name, _ in self.events)
        return f"{self.word}: {self.path} {self.ends} {told}"

    @property
    def attempts(self) -> int:
        """How many attempts at the run told something."""
        return len({id_.split("-")[0] for id_, _, _ in self.events} - {"0", ""})

    @property
    def cursor(self) -> dict[str, str]:
        """The header that says where to go on."""
        return {"Last-Event-ID": self.events[-1][0]} if self.events else {}


class Client:
    """Talks to whichever instance answers, and resumes. `over` ends it after the conversation that is under way."""

    def __init__(self, http: aiohttp.ClientSession, apis: list[str], number: int, over: asyncio.Event) -> None:
        self._http = http
        self._apis = apis
        self._number = number
        self._turn = number
        self._over = over
        self.conversations: list[Heard] = []

    async def talk(self, assistant_id: str) -> None:
        """Hold conversations until it is over."""
        while not self._over.is_set():
            heard = Heard(f"c{self._number}-{len(self.conversations)}")
            self.conversations.append(heard)
            said = {"role": "user", "content": f"{heard.word} {TURNS}"}
            heard.thread_id = (await self.insist("POST", "/v1/threads", {"messages": [said]}))["id"]
            await self._hear(heard, assistant_id)

    async def _hear(self, heard: Heard, assistant_id: str) -> None:
        while (end := await self._listen(heard, assistant_id)) != "done":
            heard.ends.append(end)
            self._turn += 1
            if heard.path is None:
                await self._look_up(heard)

    async def insist(self, method: str, path: str, body: Any = None) -> Any:
        """The body of the first 200; a process that is gone is no answer, anything else is an error."""
        while True:
            try:
                async with self._http.request(method, f"{self._api}{path}", json=body) as response:
                    assert response.status == 200, await response.text()
                    return await response.json()
            except TROUBLE:
                self._turn += 1
                await asyncio.sleep(0.05)

    @property
    def _api(self) -> str:
        return self._apis[self._turn % len(self._apis)]

    async def _listen(self, heard: Heard, assistant_id: str) -> str:
        """Listen for as long as it lasts; how it ended."""
        begun = False
        try:
            async with self._open(heard, assistant_id) as response:
                assert response.status == 200, await response.text()
                begun, heard.path = True, response.headers["Content-Location"]
                async for id_, name, data in frames(response):
                    if name == "error":
                        return str(data["error"]["code"])
                    if name == "done":
                        return name
                    heard.events.append((id_, name, data))
        except TROUBLE as error:
            if begun:
                return f"broken: {error!r}"
            await asyncio.sleep(0.05)
            return "refused"
        return "silence"

    def _open(self, heard: Heard, assistant_id: str) -> Any:
        if heard.path:
            return self._http.get(f"{self._api}{heard.path}", headers=heard.cursor)
        body = {"assistant_id": assistant_id, "stream": True}
        return self._http.post(f"{self._api}/v1/threads/{heard.thread_id}/runs", json=body)

    async def _look_up(self, heard: Heard) -> None:
        """The run may have been created although nobody said so."""
        runs = (await self.insist("GET", f"/v1/threads/{heard.thread_id}/runs"))["data"]
        heard.path = f"/v1/threads/{heard.thread_id}/runs/{runs[0]['id']}/events" if runs else None


async def frames(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, str, Any]]:
    """The events of a stream: id, name, data."""
    fields: dict[str, str] = {}
    async for raw in response.content:
        line = raw.decode().rstrip("\n")
        if not line:
            if "event" in fields:
                data = fields["data"]
                yield fields.get("id", ""), fields["event"], None if data == "[DONE]" else json.loads(data)
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value


async def replace(cluster: Cluster, slot: Slot) -> float:
    """Ask a process to end, and start the next one in its place; the seconds until it had ended."""
    began = time.monotonic()
    slot.lose("term")
    await until(lambda: not slot.alive, f"{slot.name} has ended", PATIENCE)
    took = time.monotonic() - began
    assert slot.exit_code == 0, slot.life.log.read_text()[-3000:]
    slot.start()
    await cluster.ready(slot)
    return took


@pytest.mark.timeout(2 * PATIENCE)
async def test_a_rolling_restart_under_streaming_clients_loses_nothing_and_asks_nothing_twice(tmp_path: Path) -> None:
    over = asyncio.Event()
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Authorization": f"Bearer {API_KEY}"}
    async with (
        clusters.running(tmp_path, apis=2, workers=2, ASSISTANTD_SHUTDOWN_GRACE="60") as cluster,
        aiohttp.ClientSession(connector=connector, headers=headers, timeout=WAIT) as http,
    ):
        apis = [slot.base_url for slot in cluster.apis]
        clients = [Client(http, apis, number, over) for number in range(CLIENTS)]
        assistant = await clients[0].insist("POST", "/v1/assistants", {"model": "gpt-4o", "tools": [WEATHER]})
        talking = asyncio.gather(*(client.talk(assistant["id"]) for client in clients))
        await until(lambda: all(client.conversations for client in clients), "all talk", PATIENCE)

        took: dict[str, float] = {}
        for worker, api in zip(cluster.workers, cluster.apis, strict=True):
            took[worker.name], took[api.name] = await asyncio.gather(replace(cluster, worker), replace(cluster, api))
        over.set()
        await asyncio.wait_for(talking, PATIENCE)

        conversations = [heard for client in clients for heard in client.conversations]
        asked = Counter(question(request["body"]) for request in cluster.model.requests())
        report(conversations, asked, took)
        for heard in conversations:
            check(heard)
        assert set(Counter(asked.values())) == {1}  # no turn twice
        assert len(asked) == 3 * len(conversations)


def question(body: dict[str, Any]) -> tuple[str, int]:
    """Which turn of which conversation is asked for."""
    (said,) = [message["content"] for message in body["messages"] if message["role"] == "user"]
    text = said if isinstance(said, str) else said[0]["text"]
    return text.split()[0], len(body["messages"])


def check(heard: Heard) -> None:
    """The whole text, each event once and in order, and no end without a word."""
    told = [id_ for id_, _, _ in heard.events]
    # The end may come from Postgres, without ids, to whoever asks between its commit and its telling.
    assert all(not id_ for id_ in told[len(list(filter(None, told))) :]), str(heard)
    ids = [tuple(map(int, id_.split("-"))) for id_ in told if id_]
    assert ids == sorted(set(ids)), str(heard)
    assert set(heard.ends) <= {"stream_interrupted", "refused"}, str(heard)
    names = [name for _, name, _ in heard.events]
    assert names[0] == "thread.run.created"
    assert names[-1] == "thread.run.completed"
    assert names.count("thread.message.created") == names.count("thread.message.completed") == 1
    deltas = [data["delta"]["content"][0]["text"] for _, name, data in heard.events if name == "thread.message.delta"]
    assert "".join(delta["value"] for delta in deltas) == TEXT
    (completed,) = [data for _, name, data in heard.events if name == "thread.message.completed"]
    assert completed["content"][0]["text"]["value"] == TEXT


def report(conversations: list[Heard], asked: Counter[tuple[str, int]], took: dict[str, float]) -> None:
    """The figures, for who runs it by hand (`-s`)."""
    ends = Counter(end for heard in conversations for end in heard.ends)
    again = sum(heard.attempts > 1 for heard in conversations)
    seconds = {name: round(value, 2) for name, value in took.items()}
    print(  # noqa: T201
        f"\n{CLIENTS} clients, {len(conversations)} runs, {again} taken over, streams ended {dict(ends)},"
        f" {asked.total()} turns asked for, {asked.total() - len(asked)} of them twice; seconds to end: {seconds}"
    )
