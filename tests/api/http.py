"""The API over plain HTTP, as somebody without an official client meets it."""

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from tests.api.checks import Event, Json, check_error, check_stream, parse
from tests.stack import API_KEY

WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
CALL = 'Weather? [[tool=get_weather:{"city":"Paris"}]] [[text="It rains."]]'
"""A question upon which the scripted model calls a function, then answers."""
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients that never speak TLS: one of their own each, with all roots of trust, would cost 0.1 s a test."""
OVER = ("completed", "failed", "cancelled", "incomplete", "expired")


class Http:
    """Verbs that return the body of a 200, and the few objects that most tests begin with."""

    def __init__(self, base_url: str, key: str = API_KEY) -> None:
        self.client = httpx2.Client(
            base_url=base_url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=60,
            verify=PLAIN,
        )

    def awaited(self) -> httpx2.AsyncClient:
        """An asynchronous client of the same, for requests that are under way at once."""
        return httpx2.AsyncClient(base_url=self.client.base_url, headers=self.client.headers, timeout=60, verify=PLAIN)

    def post(self, path: str, body: Json = None, **query: Any) -> Json:
        """POST JSON, or nothing at all."""
        response = self.client.post(path, json=body, params=query) if body is not None else self.client.post(path)
        assert response.status_code == 200, response.text
        return response.json()

    def get(self, path: str, **query: Any) -> Json:
        """GET."""
        response = self.client.get(path, params=query)
        assert response.status_code == 200, response.text
        return response.json()

    def delete(self, path: str) -> Json:
        """DELETE."""
        response = self.client.delete(path)
        assert response.status_code == 200, response.text
        return response.json()

    def refused(self, method: str, path: str, body: Json = None, *, status: int = 400, **query: Any) -> Json:
        """The error of a request that must be refused with `status`."""
        response = self.client.request(method, path, json=body, params=query)
        assert response.status_code == status, response.text
        check_error(status, response.json())
        return response.json()["error"]

    def stream(self, path: str, body: Json) -> list[Event]:
        """The events of a request with `stream: true`, all of them, checked."""
        with self.streaming(path, body) as lines:
            events = parse("\n".join([*lines, ""]))
        check_stream(events)
        return events

    @contextmanager
    def streaming(self, path: str, body: Json = None, headers: dict[str, str] | None = None) -> Iterator[Iterator[str]]:
        """The lines of an event stream as they come: of a POST with `body`, or of a GET."""
        sent = None if body is None else {**body, "stream": True}
        method = "GET" if body is None else "POST"
        with self.client.stream(method, path, json=sent, headers=headers) as response:
            if response.status_code != 200:
                response.read()
            assert response.status_code == 200, response.text
            assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
            yield _lines(response)

    def follow(self, run: Json, last_event_id: str | None = None) -> list[Event]:
        """The events of a run, from the first or from the one after `last_event_id`, until it rests."""
        headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
        with self.streaming(f"{path_of(run)}/events", headers=headers) as lines:
            return parse("\n".join([*lines, ""]))

    def assistant(self, **fields: Any) -> Json:
        """A new assistant."""
        return self.post("/assistants", {"model": "gpt-4o", **fields})

    def thread(self, *said: str) -> Json:
        """A new thread with these messages of the user."""
        return self.post("/threads", {"messages": [{"role": "user", "content": text} for text in said]})

    def start(self, said: str, **fields: Any) -> Json:
        """A run on a new thread in which the user has said something; `fields` are of the run's body."""
        assistant = fields.pop("assistant_id", None) or self.assistant()["id"]
        return self.post(f"/threads/{self.thread(said)['id']}/runs", {"assistant_id": assistant, **fields})

    def wait(self, run: Json, *statuses: str, timeout: float = 60) -> Json:
        """The run once it has one of these statuses; by default once it is over."""
        wanted = statuses or OVER
        deadline = time.monotonic() + timeout
        while (now := self.get(path_of(run)))["status"] not in wanted:
            assert time.monotonic() < deadline, f"still {now['status']}"
            assert now["status"] not in OVER, f"ended: {now}"
            time.sleep(0.02)
        return now

    def finish(self, said: str, **fields: Any) -> Json:
        """Like `start`, once it is over."""
        return self.wait(self.start(said, **fields))

    def ask_for_outputs(self, said: str = CALL, **fields: Any) -> Json:
        """A run that waits for the output of a function."""
        return self.wait(self.start(said, tools=[WEATHER], **fields), "requires_action")

    def messages(self, thread_id: str) -> list[Json]:
        """A thread's messages, oldest first."""
        found: list[Json] = self.get(f"/threads/{thread_id}/messages", order="asc", limit=100)["data"]
        return found

    def steps(self, run: Json) -> list[Json]:
        """A run's steps, oldest first."""
        found: list[Json] = self.get(f"{path_of(run)}/steps", order="asc", limit=100)["data"]
        return found


def _lines(response: httpx2.Response) -> Iterator[str]:
    """As they come. (`iter_lines` would also cut at U+2028, which is no line end in an event stream.)"""
    rest = ""
    for text in response.iter_text():
        *whole, rest = (rest + text).split("\n")
        yield from whole
    assert not rest


def read_until(lines: Iterator[str], word: str) -> list[str]:
    """The lines of a stream up to the end of the event that holds the word."""
    found: list[str] = []
    for line in lines:
        found.append(line)
        if word in line:
            return [*found, next(lines)]
    raise AssertionError(f"the stream ended without {word!r}")


def path_of(run: Json) -> str:
    """Where a run lives."""
    return f"/threads/{run['thread_id']}/runs/{run['id']}"


def outputs(run: Json, *values: str) -> Json:
    """The body that answers a waiting run's calls; the last value answers all that are left."""
    ids = [call["id"] for call in run["required_action"]["submit_tool_outputs"]["tool_calls"]]
    given = [*values, *[values[-1] if values else "sunny"] * len(ids)]
    return {"tool_outputs": [{"tool_call_id": id_, "output": given[place]} for place, id_ in enumerate(ids)]}


def names(events: list[Event]) -> list[str]:
    """The names of events, runs of deltas as one."""
    found: list[str] = []
    for event in events:
        if not (event.name.endswith(".delta") and found and found[-1] == event.name):
            found.append(event.name)
    return found


def text_of(message: Json) -> str:
    """What a message of one text part says."""
    (part,) = message["content"]
    value: str = part["text"]["value"]
    return value
