"""What every answer and every event stream must fulfil, whatever a test is about; the clients of tests/api check all.

Bodies are held against `orchestrator.wire.schemas`, which subclass the official client's own types; errors against the
envelope; streams against the rules whose violation crashes one of the official clients.
"""

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import httpx2
from openai.types.beta.threads import MessageDeltaEvent
from openai.types.beta.threads.runs import RunStepDeltaEvent
from pydantic import BaseModel

from orchestrator.events.frames import RESTING
from orchestrator.wire import schemas

Json = Any

SCHEMAS: dict[str, type[BaseModel]] = {
    "assistant": schemas.Assistant,
    "thread": schemas.Thread,
    "thread.message": schemas.Message,
    "thread.run": schemas.Run,
    "thread.run.step": schemas.RunStep,
    "thread.message.delta": MessageDeltaEvent,
    "thread.run.step.delta": RunStepDeltaEvent,
    "model": schemas.Model,
    "assistant.deleted": schemas.Deleted,
    "thread.deleted": schemas.Deleted,
    "thread.message.deleted": schemas.Deleted,
}


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    name: str
    data: Json
    id: str | None = None


def check_object(body: Json) -> None:
    """Hold a whole object, or a page of them, against its schema."""
    if body["object"] != "list":
        SCHEMAS[body["object"]].model_validate_json(json.dumps(body), strict=True)
        return
    for item in body["data"]:
        check_object(item)
    if "has_more" in body:
        schemas.Page[Any].model_validate(body)
        assert body["first_id"] == (body["data"][0]["id"] if body["data"] else None)
        assert body["last_id"] == (body["data"][-1]["id"] if body["data"] else None)


def check_error(status: int, body: Json) -> None:
    """Case 23: the envelope, all four keys of it and nothing else; and never our own fault."""
    assert 400 <= status < 500, (status, body)
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["type"] == "invalid_request_error"
    assert isinstance(body["error"]["message"], str)


def check_answer(response: httpx2.Response) -> None:
    """Hold a read answer against what it must be; case 129: with the headers that each one carries."""
    for header in ("x-request-id", "openai-version", "openai-processing-ms"):
        assert response.headers[header]
    assert not [name for name in response.headers if name.startswith("x-ratelimit")]
    if response.status_code == 200:
        check_object(response.json())
    else:
        assert response.headers["content-type"] == "application/json"
        check_error(response.status_code, response.json())


def check_response(response: httpx2.Response) -> None:
    """A hook for clients; streams are checked when they are over."""
    if "/v1/" in str(response.url) and "event-stream" not in response.headers.get("content-type", ""):
        response.read()
        check_answer(response)


async def check_async_response(response: httpx2.Response) -> None:
    """The same for asynchronous clients."""
    if "/v1/" in str(response.url) and "event-stream" not in response.headers.get("content-type", ""):
        await response.aread()
        check_answer(response)


def parse(raw: str) -> list[Event]:
    """The events of a stream; case 62: each with exactly one line of data, comments alone between the fields."""
    events = []
    for block in raw.split("\n\n")[:-1]:
        fields = [line.partition(": ") for line in block.split("\n") if not line.startswith(":")]
        names = [name for name, _, _ in fields]
        assert names in (["id", "event", "data"], ["event", "data"]), block
        found = {name: value for name, _, value in fields}
        data = found["data"] if found["data"] == "[DONE]" else json.loads(found["data"])
        events.append(Event(found["event"], data, found.get("id")))
    assert raw.endswith("\n\n"), raw[-100:]
    return events


def check_stream(events: list[Event]) -> None:
    """Cases 54 to 58 and 61: what the official clients need in order not to break."""
    assert events[-1].name == "done"
    assert events[-1].data == "[DONE]"
    assert events[-2].name in RESTING
    assert not any(event.name in RESTING for event in events[:-2])
    for kind in ("thread.run.step", "thread.message"):
        _check_sequence([event for event in events if event.name.rpartition(".")[0] == kind], kind)
    for event in events[:-1]:
        check_object(event.data)
    _check_calls(events)
    _check_content(events)


def _check_sequence(events: list[Event], kind: str) -> None:
    """One after the other; deltas only for the open one. (The first of a resumed run may be closed unseen.)"""
    opened: str | None = None
    for place, event in enumerate(events):
        change = event.name.removeprefix(f"{kind}.")
        if change == "created":
            assert opened is None, f"{event.data['id']} begins before {opened} has ended"
            opened = event.data["id"]
        elif change in ("in_progress", "delta"):
            assert event.data["id"] == opened
        else:
            assert event.data["id"] == opened or place == 0
            opened = None


def _check_calls(events: list[Event]) -> None:
    names: dict[tuple[str, int], list[str]] = defaultdict(list)
    for event in events:
        if event.name != "thread.run.step.delta":
            continue
        for call in event.data["delta"]["step_details"]["tool_calls"]:
            assert type(call["index"]) is int
            assert isinstance(call["function"]["arguments"], str)
            if (event.data["id"], call["index"]) in names:
                assert call.keys() == {"index", "type", "function"}
                assert call["function"].keys() == {"arguments"}
            else:
                assert call["id"]
                assert call["function"].keys() == {"name", "arguments", "output"}
                assert call["index"] == sum(step == event.data["id"] for step, _ in names)
            names[event.data["id"], call["index"]].append(call["function"]["arguments"])


def _check_content(events: list[Event]) -> None:
    parts: dict[str, dict[int, str]] = defaultdict(dict)
    for event in events:
        if event.name == "thread.message.created":
            assert event.data["content"] == []
        elif event.name == "thread.message.delta":
            for part in event.data["delta"]["content"]:
                heard = parts[event.data["id"]]
                assert type(part["index"]) is int
                assert part["index"] in heard or part["index"] == len(heard)
                assert ("annotations" in part.get("text", {})) == (
                    part["type"] == "text" and part["index"] not in heard
                )
                piece = part["text"]["value"] if part["type"] == "text" else part["refusal"]
                heard[part["index"]] = heard.get(part["index"], "") + piece
        elif event.name in ("thread.message.completed", "thread.message.incomplete"):
            said = [
                part["text"]["value"] if part["type"] == "text" else part["refusal"] for part in event.data["content"]
            ]
            assert said == list(parts[event.data["id"]].values())
