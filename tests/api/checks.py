"""What every answer and every event stream must fulfil, whatever a test is about and whichever client asked.

Bodies are held against the official client's own types (see strictness.py), errors against the envelope, streams
against the rules whose violation crashes one of the official clients. `check_exchange` is applied to all that goes over
the wire.
"""

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, get_args

from openai.types import CreateEmbeddingResponse, Embedding, beta
from openai.types.beta import AssistantStreamEvent, threads
from openai.types.beta.threads import MessageDeltaEvent
from openai.types.beta.threads.runs import RunStepDeltaEvent
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from orchestrator.events.frames import RESTING
from orchestrator.wire import schemas
from tests.api.strictness import check_type
from tests.wiretap import Exchange

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
    "assistant.deleted": beta.AssistantDeleted,
    "thread.deleted": beta.ThreadDeleted,
    "thread.message.deleted": threads.MessageDeleted,
    "upload": schemas.Upload,
    "upload.part": schemas.UploadPart,
}
EVENTS: dict[str, type[BaseModel]] = {
    get_args(option.model_fields["event"].annotation)[0]: option.model_fields["data"].annotation
    for option in get_args(get_args(AssistantStreamEvent)[0])
}
"""The official client's own list: names of events, and the type of what each carries."""


class Embedded(Embedding):
    """An embedding; the client asks for base64 by itself, and reads it before its user sees it."""

    embedding: list[float] | str  # type: ignore[assignment]


class Embeddings(CreateEmbeddingResponse):
    """What is asked for in either encoding."""

    data: list[Embedded]  # type: ignore[assignment]


PASSED_ON: dict[str, type[BaseModel]] = {"/v1/chat/completions": ChatCompletion, "/v1/embeddings": Embeddings}
"""Operations that the model server answers, and with what."""


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    name: str
    data: Json
    id: str | None = None


def check_object(body: Json) -> None:
    """Hold a whole object, or a page of them, against its schema."""
    if body["object"] == "file":
        check_type(body, schemas.FileDeleted if "deleted" in body else schemas.File)
        return
    if body["object"] != "list":
        check_type(body, SCHEMAS[body["object"]], partial=body["object"].endswith(".delta"))
        return
    for item in body["data"]:
        check_object(item)
    if "has_more" in body:
        assert body.keys() == {"object", "data", "first_id", "last_id", "has_more"}
        schemas.Page[Any].model_validate(body, strict=True)
        assert body["first_id"] == (body["data"][0]["id"] if body["data"] else None)
        assert body["last_id"] == (body["data"][-1]["id"] if body["data"] else None)
    else:
        assert body.keys() == {"object", "data"}


def check_error(status: int, body: Json) -> None:
    """Case 23: the envelope, all four keys of it and nothing else; and never our own fault."""
    assert 400 <= status < 500, (status, body)
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["type"] == "invalid_request_error"
    assert isinstance(body["error"]["message"], str)


def check_exchange(exchange: Exchange) -> None:
    """Hold an answer against what it must be; case 129: with the headers that each one carries."""
    if not exchange.target.startswith("/v1/"):
        return
    for header in ("x-request-id", "openai-version", "openai-processing-ms"):
        assert exchange.headers.get(header), header
    if exchange.target.partition("?")[0] in PASSED_ON:
        _check_passed_on(exchange)
        return
    assert not [name for name in exchange.headers if name.startswith("x-ratelimit")]
    kind = exchange.headers.get("content-type")
    if exchange.status != 200:
        assert kind == "application/json", kind
        assert exchange.whole
        check_error(exchange.status, exchange.json())
    elif kind == "text/event-stream; charset=utf-8":
        _check_told(exchange)
    elif kind == "application/octet-stream":
        assert exchange.target.endswith("/content"), exchange.target
    else:
        assert kind == "application/json", kind
        if exchange.whole:
            check_object(exchange.json())


def _check_passed_on(exchange: Exchange) -> None:
    """What the model server answered: errors in the envelope, streams without names of events, the official types.

    What it says beyond them is its own.
    """
    kind = exchange.headers.get("content-type")
    if exchange.status != 200:
        assert exchange.status >= 400
        assert kind == "application/json", kind
        body = exchange.json()
        assert body.keys() == {"error"}
        assert body["error"].keys() == {"message", "type", "param", "code"}
    elif kind == "text/event-stream; charset=utf-8" and exchange.whole:
        frames = bytes(exchange.body).decode().split("\n\n")
        assert frames.pop() == ""
        assert all(frame.startswith(("data: ", ": ")) for frame in frames)
        chunks = [
            frame.removeprefix("data: ") for frame in frames if frame.startswith("data: {") and "error" not in frame
        ]
        for chunk in chunks:
            ChatCompletionChunk.model_validate_json(chunk, strict=True)
    elif kind == "application/json" and exchange.whole:
        answer = PASSED_ON[exchange.target.partition("?")[0]]
        answer.model_validate_json(bytes(exchange.body), strict=True)


def _check_told(exchange: Exchange) -> None:
    """A stream to its end, or as far as the client has listened."""
    text = bytes(exchange.body).decode(errors="strict" if exchange.whole else "replace")
    events = parse(text[: text.rfind("\n\n") + 2])
    for event in events:
        check_event(event)
    if not exchange.whole or "error" in {event.name for event in events}:
        return
    if exchange.method == "POST":
        check_stream(events)
    else:  # a follower may come in the middle, and hear of several rests
        assert events[-2].name in RESTING


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


def check_event(event: Event) -> None:
    """An event is one of the official client's, with the data that it expects there, in the status that it tells."""
    if event.name == "done":
        assert event.data == "[DONE]"
    elif event.name == "error":
        assert event.data.keys() == {"error", "message", "type", "param", "code"}
        assert event.data["error"].items() <= event.data.items()
    else:
        kind = event.data["object"]
        assert issubclass(SCHEMAS[kind], EVENTS[event.name])
        check_object(event.data)
        told = event.name.removeprefix(f"{kind}.")
        if "status" in event.data:
            begun = "queued" if kind == "thread.run" else "in_progress"
            assert event.data["status"] == (begun if told == "created" else told)


def check_stream(events: list[Event]) -> None:
    """Cases 54 to 58 and 61: what the official clients need in order not to break."""
    assert events[-1].name == "done"
    assert events[-1].data == "[DONE]"
    assert events[-2].name in RESTING
    assert not any(event.name in RESTING for event in events[:-2])
    for kind in ("thread.run.step", "thread.message"):
        _check_sequence([event for event in events if event.name.rpartition(".")[0] == kind], kind)
    for event in events:
        check_event(event)
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
            lost = event.name.endswith(".incomplete") and said == [""]  # with the worker that said it
            assert lost or said == list(parts[event.data["id"]].values())
