"""What the scripted model server can answer: a `Reply` says it, and knows its bytes.

    Reply.text("Hello!")                                     one answer, in tokens
    Reply.tool_calls(("get_weather", {"city": "Paris"}))     parallel calls: one tuple each
    Reply.text("Let me see.").calling(("get_time", {}))      text first, then calls
    Reply.refusal("I can't help with that.")
    Reply.error(429, "Slow down", code="rate_limit_exceeded", retry_after=1)
    Reply.text("…").dropped(after=3)                         the connection breaks after 3 deltas
    Reply.text("…").held("gate", after=1)                    waits, after 1 delta, until the gate is released
    Reply.text("…").held("gate").beating(0.05)               … with comments meanwhile, so that it is never silent
    Reply.text("…").failing("Busy", code="server_error")     an error object in place of the end
    Reply.hang()                                             accepts the request and never answers
    Reply.raw(b"data: …")                                    any bytes, for providers that differ
    ….paced(first=0.2, each=0.05) ….finishing("length") ….costing(prompt=10, completion=5, cached=2, reasoning=1)

The chunks are shaped like the original's: role, content, finish, usage, [DONE].
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

TOKEN = b"@request@"  # becomes unique for each request, within ids
Call = tuple[str, Mapping[str, Any] | str]


@dataclass(frozen=True, slots=True)
class Reply:
    """One scripted answer; immutable, hashable, and the same after a trip through JSON."""

    pieces: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    calls: tuple[tuple[str, str], ...] = ()
    finish: str | None = None
    usage: tuple[int, int, int, int] | None = None
    first: float = 0.0
    each: float = 0.0
    gate: str | None = None
    gate_after: int = 0
    beat: float = 0.0
    drop_after: int | None = None
    fails_late: bool = False
    hangs: bool = False
    status: int = 200
    message: str = ""
    code: str | None = None
    type: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: str | None = None
    content_type: str = "text/event-stream"

    @classmethod
    def text(cls, text: str = "Hello!", *, tokens: int | None = None) -> "Reply":
        """`text`, cut at its spaces; or, with `tokens`, so many numbered words."""
        if tokens is not None:
            return cls(pieces=tuple(f"word{number} " for number in range(tokens)))
        return cls(pieces=_cut(text))

    @classmethod
    def tool_calls(cls, *calls: Call) -> "Reply":
        """Calls of functions with these arguments; a string is sent as it is, valid JSON or not."""
        return cls().calling(*calls)

    @classmethod
    def refusal(cls, text: str) -> "Reply":
        """The model declines."""
        return cls(refusals=_cut(text))

    @classmethod
    def error(
        cls,
        status: int,
        message: str = "Scripted failure",
        *,
        code: str | None = None,
        type: str | None = None,  # noqa: A002  # the field's name on the wire
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> "Reply":
        """An answer other than 200, in the original's envelope."""
        fields = dict(headers or {})
        if retry_after is not None:
            fields["Retry-After"] = f"{retry_after:g}"
        return cls(status=status, message=message, code=code, type=type, headers=tuple(fields.items()))

    @classmethod
    def hang(cls) -> "Reply":
        """The request is taken and nothing ever comes back, not even headers."""
        return cls(hangs=True)

    @classmethod
    def raw(cls, body: bytes, *, content_type: str = "text/event-stream", status: int = 200) -> "Reply":
        """Exactly these bytes."""
        return cls(body=body.decode("latin-1"), content_type=content_type, status=status)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Reply":
        """What `to_json` gave."""
        known = dict(fields)
        for name in ("pieces", "refusals", "usage"):
            if known.get(name) is not None:
                known[name] = tuple(known[name])
        for name in ("calls", "headers"):
            known[name] = tuple((key, value) for key, value in known.get(name, ()))
        return cls(**known)

    def to_json(self) -> dict[str, Any]:
        """Itself for `POST /control/script`."""
        return asdict(self)

    def calling(self, *calls: Call) -> "Reply":
        """The same, and then these tool calls."""
        encoded = tuple((name, given if isinstance(given, str) else json.dumps(given)) for name, given in calls)
        return replace(self, calls=self.calls + encoded)

    def paced(self, *, first: float = 0.0, each: float = 0.0) -> "Reply":
        """The same, `first` seconds later, with `each` seconds before every further delta."""
        return replace(self, first=first, each=each)

    def held(self, gate: str, *, after: int = 0) -> "Reply":
        """The same, but after so many deltas it waits until `gate` is released."""
        return replace(self, gate=gate, gate_after=after)

    def beating(self, each: float) -> "Reply":
        """The same, but while it waits at its gate a comment comes every so many seconds."""
        return replace(self, beat=each)

    def dropped(self, *, after: int) -> "Reply":
        """The same, but the connection breaks after so many deltas.

        Clients may lose what arrives together with the break: hold the reply at the same place to be sure of it.
        """
        return replace(self, drop_after=after)

    def failing(self, message: str, *, code: str | None = None) -> "Reply":
        """The same, but after its deltas comes an error object instead of an end."""
        return replace(self, fails_late=True, message=message, code=code)

    def finishing(self, reason: str) -> "Reply":
        """The same, with this finish_reason."""
        return replace(self, finish=reason)

    def costing(self, *, prompt: int, completion: int, cached: int = 0, reasoning: int = 0) -> "Reply":
        """The same, with this usage."""
        return replace(self, usage=(prompt, completion, cached, reasoning))

    @property
    def finish_reason(self) -> str:
        """What the last choice says."""
        return self.finish or ("tool_calls" if self.calls else "stop")

    def usage_json(self) -> dict[str, Any]:
        """The `usage` object; by default every delta is a token, after a prompt of ten."""
        deltas = len(self.pieces) + len(self.refusals) + sum(len(arguments) for _, arguments in self.calls)
        prompt, completion, cached, reasoning = self.usage or (10, deltas, 0, 0)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": reasoning,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def error_json(self) -> dict[str, Any]:
        """The body of an answer other than 200."""
        kind = self.type or ("server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.code}}


@dataclass(frozen=True, slots=True)
class Frames:
    """The bytes of a streamed reply: `deltas` are paced, `head` comes before them and `tail` after."""

    head: bytes
    deltas: tuple[bytes, ...]
    tail: bytes


@lru_cache(maxsize=512)
def frames(reply: Reply, model: str, created: int, with_usage: bool) -> Frames:
    """Encode once, serve often: only TOKEN differs between two requests for the same reply."""
    base = {
        "id": f"chatcmpl-{TOKEN.decode()}",
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "service_tier": "default",
        "system_fingerprint": "fp_scripted",
    }

    def frame(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _sse(base | {"choices": [choice]} | ({"usage": None} if with_usage else {}))

    deltas = [frame({"content": piece}) for piece in reply.pieces]
    deltas += [frame({"refusal": piece}) for piece in reply.refusals]
    for call in _call_deltas(reply):
        deltas.append(frame({"tool_calls": [call]}))
    usage = _sse(base | {"choices": [], "usage": reply.usage_json()}) if with_usage else b""
    end = frame({}, reply.finish_reason) + usage + b"data: [DONE]\n\n"
    content = None if reply.calls and not reply.pieces else ""
    return Frames(
        frame({"role": "assistant", "content": content, "refusal": None}),
        tuple(deltas),
        _sse(reply.error_json()) if reply.fails_late else end,
    )


def completion(reply: Reply, model: str, created: int, token: str) -> dict[str, Any]:
    """The answer to a request that does not stream."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(reply.pieces) or None,
        "refusal": "".join(reply.refusals) or None,
        "annotations": [],
    }
    if reply.calls:
        message["tool_calls"] = [
            {"id": f"call_{token}{place:02}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for place, (name, arguments) in enumerate(reply.calls)
        ]
    return {
        "id": f"chatcmpl-{token}",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish_reason}],
        "usage": reply.usage_json(),
        "service_tier": "default",
        "system_fingerprint": "fp_scripted",
    }


def _call_deltas(reply: Reply) -> list[dict[str, Any]]:
    deltas: list[dict[str, Any]] = []
    for place, (name, arguments) in enumerate(reply.calls):
        id_ = f"call_{TOKEN.decode()}{place:02}"
        function = {"name": name, "arguments": ""}
        deltas.append({"index": place, "id": id_, "type": "function", "function": function})
        parts = (arguments[start : start + 6] for start in range(0, len(arguments), 6))
        deltas += [{"index": place, "function": {"arguments": part}} for part in parts]
    return deltas


def _cut(text: str) -> tuple[str, ...]:
    words = text.split(" ")
    return tuple(word if place == 0 else f" {word}" for place, word in enumerate(words))


def _sse(event: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"
