"""Events of a generation as OpenAI's wire: chunks of a stream, or one completion."""

import secrets
import string
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import orjson

from orchestrator.embedded.model.engine import Usage
from orchestrator.embedded.model.generation import Call, CallText, Event, Finished, Text
from orchestrator.foreign import Json

ALPHABET = string.ascii_letters + string.digits
DONE = b"data: [DONE]\n\n"


def new_id(prefix: str) -> str:
    """An id as OpenAI's: a prefix and 24 letters and digits."""
    return prefix + "".join(secrets.choice(ALPHABET) for _ in range(24))


@dataclass
class Reply:
    """One answer that is being given; `model` is the id that the client is told."""

    model: str
    wants_usage: bool = False
    id: str = field(default_factory=lambda: new_id("chatcmpl-"))
    created: int = field(default_factory=lambda: int(time.time()))
    _calls: int = 0
    _begun: bool = False

    def frames(self, event: Event) -> Iterator[bytes]:
        """The stream's frames for one event."""
        if not self._begun:
            self._begun = True
            yield self._chunk(
                {"role": "assistant", "content": None if isinstance(event, Call) else "", "refusal": None}
            )
        if isinstance(event, Text):
            yield self._chunk({"content": event.text})
        elif isinstance(event, Call):
            self._calls += 1
            function = {"name": event.name, "arguments": ""}
            yield self._call({"id": new_id("call_"), "type": "function", "function": function})
        elif isinstance(event, CallText):
            yield self._call({"function": {"arguments": event.text}})
        else:
            yield from self._end(event)

    async def whole(self, events: AsyncIterator[Event]) -> Json:
        """The completion that all events make."""
        text: list[str] = []
        calls: list[Json] = []
        finished = Finished("stop", Usage())
        async for event in events:
            if isinstance(event, Text):
                text.append(event.text)
            elif isinstance(event, Call):
                function = {"name": event.name, "arguments": ""}
                calls.append({"id": new_id("call_"), "type": "function", "function": function})
            elif isinstance(event, CallText):
                calls[-1]["function"]["arguments"] += event.text
            else:
                finished = event
        message: Json = {"role": "assistant", "content": None if calls else "".join(text), "refusal": None}
        if calls:
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finished.reason}
        return self._object("chat.completion", [choice]) | {"usage": _usage(finished.usage)}

    def _end(self, event: Finished) -> Iterator[bytes]:
        yield self._chunk({}, event.reason)
        if self.wants_usage:
            yield _frame(self._object("chat.completion.chunk", []) | {"usage": _usage(event.usage)})
        yield DONE

    def _call(self, part: Json) -> bytes:
        return self._chunk({"tool_calls": [{"index": self._calls - 1, **part}]})

    def _chunk(self, delta: Json, reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        chunk = self._object("chat.completion.chunk", [choice])
        return _frame(chunk | {"usage": None} if self.wants_usage else chunk)

    def _object(self, kind: str, choices: list[Json]) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": None,
            "choices": choices,
        }


def error_body(
    message: str, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None
) -> bytes:
    """An error in OpenAI's envelope."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def error_frame(message: str) -> bytes:
    """An error in the midst of a stream."""
    return b"data: " + error_body(message, "server_error") + b"\n\n"


def _frame(value: Json) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def _usage(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }
