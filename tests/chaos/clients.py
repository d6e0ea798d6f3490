"""Clients that never give up: they try again, come back to streams elsewhere, and look up what they were not told.

Nothing is created twice by them: before a creation whose answer was lost is tried again, the thread's runs are listed.
A request that the server may still be at when its connection has broken gets a moment to be seen.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp

from tests.api.checks import Event
from tests.chaos.history import End, History, calls_of
from tests.chaos.plan import Conversation
from tests.stack import API_KEY

HEADERS = {"Authorization": f"Bearer {API_KEY}"}
TROUBLE = (aiohttp.ClientError, OSError, TimeoutError)
WAIT = aiohttp.ClientTimeout(total=15)
LISTEN = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=20)
OVER = ("completed", "failed", "cancelled", "incomplete", "expired")
LOOKS = 4
"""Times that a lost creation is looked for, half a second apart."""
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}

Json = Any


class Refused(Exception):
    """An answer that trying again does not change; or no answer at all."""

    def __init__(self, status: int, body: Json) -> None:
        super().__init__(f"{status} {body}")
        self.status = status


class Client:
    """Holds one conversation. `apis` are the addresses of all instances; `hasty` is where runs expire soon."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        apis: Sequence[str],
        hasty: str,
        assistant: str,
        conversation: Conversation,
    ) -> None:
        self._session = session
        self._apis = apis
        self._hasty = hasty
        self._assistant = assistant
        self._conversation = conversation
        self._turn = conversation.api
        self.histories = [History(run) for run in conversation.runs]

    async def begin(self) -> None:
        """Wait for the conversation's time, and hold it to its end."""
        await asyncio.sleep(self._conversation.at)
        thread = await self._insist("POST", "/threads", {"metadata": {"word": self._conversation.runs[0].word}})
        for history in self.histories:
            history.thread_id = thread["id"]
        if self._conversation.enqueued:
            for history in self.histories:
                await self._create(history)
            await asyncio.gather(*map(self._carry, self.histories))
            return
        for history in self.histories:
            if history.planned.way == "poll":
                await self._create(history)
            await self._carry(history)

    async def _carry(self, history: History) -> None:
        """See a run to its end."""
        while True:
            run = await (self._listened(history) if history.planned.way == "stream" else self._polled(history))
            history.status = run["status"]
            if run["status"] != "requires_action" or history.planned.kind == "abandoned":
                return
            await self._submit(history, run)

    async def _polled(self, history: History) -> Json:
        while True:
            run = await self._insist("GET", f"{self._path(history)}?wait=2")
            if run["status"] in (*OVER, "requires_action"):
                return run

    async def _listened(self, history: History) -> Json:
        """Follow the run's events until they say that it is at rest, on as many connections as it takes."""
        while True:
            try:
                end = await self._listen(history)
            except aiohttp.ClientConnectorError:
                end = "refused"
            except TROUBLE:
                end = "broken"
            history.ends.append(end)
            if end == "done":
                return await self._insist("GET", self._path(history))
            if not history.run_id:
                await self._look_up(history)
            self._turn += 1
            await asyncio.sleep(0.2)

    async def _listen(self, history: History) -> End:
        history.closing.clear()
        if history.run_id:
            url = f"{self._api(history)}{self._path(history)}/events"
            cursor = {"Last-Event-ID": history.cursor} if history.cursor else {}
            asked = self._session.get(url, headers=cursor, timeout=LISTEN)
        else:
            url = f"{self._api(history)}/threads/{history.thread_id}/runs"
            asked = self._session.post(url, json={**self._body(history), "stream": True}, timeout=LISTEN)
        async with asked as response:
            if response.status != 200:
                await self._note(history, response)
                return "refused"
            deltas = 0
            async for event in _events(response):
                if end := history.hear(event):
                    return end
                history.run_id = history.run_id or event.data["id"]
                deltas += event.name == "thread.message.delta"
                if history.planned.kind == "cancelled" and deltas == 2:
                    await self._cancel(history)
            return "silence"

    async def _create(self, history: History) -> None:
        """Create the run without listening to it."""
        while not history.run_id:
            url = f"{self._api(history)}/threads/{history.thread_id}/runs"
            try:
                async with self._session.post(url, json=self._body(history), timeout=WAIT) as response:
                    if response.status == 200:
                        history.run_id = (await response.json())["id"]
                        return
                    await self._note(history, response)
            except TROUBLE:
                pass
            self._turn += 1
            await self._look_up(history)

    async def _look_up(self, history: History) -> None:
        """The run may have been created although nobody said so."""
        for _ in range(LOOKS):
            await asyncio.sleep(0.5)
            runs = await self._insist("GET", f"/threads/{history.thread_id}/runs?limit=100")
            for run in runs["data"]:
                if run["metadata"].get("word") == history.planned.word:
                    history.run_id = run["id"]
                    return

    async def _submit(self, history: History, run: Json) -> None:
        """Answer the calls that the run waits for. If no answer comes, the run says whether they have arrived."""
        asked = calls_of(run)
        outputs = [{"tool_call_id": call["id"], "output": f"{history.planned.word} is sunny"} for call in asked]
        while run["status"] == "requires_action" and calls_of(run) == asked:
            url = f"{self._api(history)}{self._path(history)}/submit_tool_outputs"
            try:
                async with self._session.post(url, json={"tool_outputs": outputs}, timeout=WAIT) as response:
                    if response.status == 200:
                        return
                    await self._note(history, response)
            except TROUBLE:
                pass
            self._turn += 1
            await asyncio.sleep(0.5)
            run = await self._insist("GET", self._path(history))

    async def _cancel(self, history: History) -> None:
        try:
            await self._insist("POST", f"{self._path(history)}/cancel")
        except Refused as refused:  # the answer to the first try was lost
            if refused.status != 400:
                raise

    async def _insist(self, method: str, path: str, body: Json = None) -> Json:
        """The body of a 200. Whatever passes is tried again, elsewhere. Raises Refused."""
        while True:
            self._turn += 1
            try:
                async with self._session.request(method, f"{self._api()}{path}", json=body, timeout=WAIT) as response:
                    if response.status == 200:
                        return await response.json()
                    if response.status < 500 and response.status != 429:
                        raise Refused(response.status, await response.text())
                    await self._note(self.histories[0], response)
            except TROUBLE:
                pass
            await asyncio.sleep(0.2)

    async def _note(self, history: History, response: aiohttp.ClientResponse) -> None:
        """Keep an answer that is neither what was asked for nor an excuse that passes."""
        said = await response.text()
        if response.status in (429, 503):
            if "retry-after" not in response.headers:
                history.odd.append(f"{response.status} without Retry-After: {said[:200]}")
        elif not (response.status == 400 and ("already has an active run" in said or "do not accept" in said)):
            history.odd.append(f"{response.status}: {said[:500]}")

    def _api(self, history: History | None = None) -> str:
        if history is not None and history.planned.kind == "expiring" and not history.run_id:
            return self._hasty
        return self._apis[self._turn % len(self._apis)]

    def _path(self, history: History) -> str:
        return f"/threads/{history.thread_id}/runs/{history.run_id}"

    def _body(self, history: History) -> Json:
        planned = history.planned
        body = {
            "assistant_id": self._assistant,
            "additional_messages": [{"role": "user", "content": planned.question}],
            "metadata": {"word": planned.word},
        }
        return {**body, "on_active_run": "enqueue"} if planned.kind == "enqueued" else body


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    """The events of a stream as they come; one that breaks off is none."""
    fields: dict[str, str] = {}
    async for raw in response.content:
        line = raw.decode()
        if line == "\n":
            if "event" in fields:
                data = fields["data"]
                yield Event(fields["event"], data if data == "[DONE]" else json.loads(data), fields.get("id"))
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.rstrip("\n").partition(": ")
            fields[name] = value
