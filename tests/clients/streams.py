"""Streams in the form of the original's, key by key: what every client must be able to read.

They are put together from rules (which events, in which order, with which keys), not copied from anybody's traffic. As
in the original's, steps lack two keys that the specification demands and ours have. Some tell of tools that we do not
have yet: the clients read them all the same, and so will they when we send them.
"""

import json
from typing import Any

Json = Any

IDS = {"assistant_id": "asst_A", "thread_id": "thread_T"}
USAGE = {
    "prompt_tokens": 30,
    "completion_tokens": 12,
    "total_tokens": 42,
    "prompt_token_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
RANKING = {"ranker": "default_2024_08_21", "score_threshold": 0.0}
MARK = "【4:0†menu.txt】"


def event(name: str, data: Json) -> str:
    """One frame."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"event: {name}\ndata: {text}\n\n"


def run(status: str, **changes: Json) -> str:
    """A run's event; the run itself is in the status that the event tells."""
    over = status in ("completed", "failed", "cancelled", "incomplete", "expired")
    whole: Json = {
        "id": "run_R",
        "object": "thread.run",
        "created_at": 1,
        **IDS,
        "status": {"created": "queued"}.get(status, status),
        "started_at": None if status == "created" else 2,
        "expires_at": None if over else 601,
        "cancelled_at": None,
        "failed_at": None,
        "completed_at": None,
        "required_action": None,
        "last_error": None,
        "model": "gpt-4o",
        "instructions": None,
        "tools": [],
        "tool_resources": {"code_interpreter": {"file_ids": []}},
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
        "reasoning_effort": None,
        "max_completion_tokens": None,
        "max_prompt_tokens": None,
        "truncation_strategy": {"type": "auto", "last_messages": None},
        "incomplete_details": None,
        "usage": USAGE if over else None,
        "response_format": "auto",
        "tool_choice": "auto",
        "parallel_tool_calls": True,
    }
    return event(f"thread.run.{status}", {**whole, **changes})


def step(change: str, details: Json, **changes: Json) -> str:
    """A step's event."""
    over = change not in ("created", "in_progress")
    calls = details["type"] == "tool_calls"
    whole = {
        "id": "step_C" if calls else "step_M",
        "object": "thread.run.step",
        "created_at": 3,
        "run_id": "run_R",
        **IDS,
        "type": details["type"],
        "status": change if over else "in_progress",
        "cancelled_at": None,
        "completed_at": 4 if change == "completed" else None,
        "expires_at": 601,
        "failed_at": None,
        "last_error": None,
        "step_details": details,
        "usage": USAGE if over else None,
    }
    return event(f"thread.run.step.{change}", {**whole, **changes})


def message(change: str, content: list[Json], **changes: Json) -> str:
    """A message's event."""
    status = "in_progress" if change == "created" else change
    whole: Json = {
        "id": "msg_M",
        "object": "thread.message",
        "created_at": 3,
        **IDS,
        "run_id": "run_R",
        "status": status,
        "incomplete_details": None,
        "incomplete_at": None,
        "completed_at": 4 if status == "completed" else None,
        "role": "assistant",
        "content": content,
        "attachments": [],
        "metadata": {},
    }
    return event(f"thread.message.{change}", {**whole, **changes})


def said(*parts: Json) -> str:
    """Message deltas, one part each."""
    deltas = [{"id": "msg_M", "object": "thread.message.delta", "delta": {"content": [part]}} for part in parts]
    return "".join(event("thread.message.delta", delta) for delta in deltas)


def called(*calls: Json) -> str:
    """Step deltas, one call each."""
    details = [{"type": "tool_calls", "tool_calls": [call]} for call in calls]
    deltas = [{"id": "step_C", "object": "thread.run.step.delta", "delta": {"step_details": each}} for each in details]
    return "".join(event("thread.run.step.delta", delta) for delta in deltas)


def text(*pieces: str, index: int = 0) -> list[Json]:
    """The parts of deltas that say a text; only the first has annotations."""
    first = {"index": index, "type": "text", "text": {"value": pieces[0], "annotations": []}}
    return [first, *({"index": index, "type": "text", "text": {"value": piece}} for piece in pieces[1:])]


def whole_text(value: str, *annotations: Json) -> Json:
    """A content part."""
    return {"type": "text", "text": {"value": value, "annotations": [*annotations]}}


def calls_step(*calls: Json) -> Json:
    """The details of a step of calls."""
    return {"type": "tool_calls", "tool_calls": [*calls]}


def function(id_: str, name: str, arguments: str, **output: Json) -> Json:
    """A whole call of a function."""
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments, **output}}


def call_pieces(index: int, whole: Json, *pieces: str) -> list[Json]:
    """The deltas that tell of a call: id and name once, then arguments."""
    begun = {**whole["function"], "arguments": "", "output": None}
    rest = [{"index": index, "type": "function", "function": {"arguments": piece}} for piece in pieces]
    return [{"index": index, **whole, "function": begun}, *rest]


WRITING = {"type": "message_creation", "message_creation": {"message_id": "msg_M"}}
BEGUN = run("created") + run("queued") + run("in_progress")
TALKING = step("created", WRITING) + step("in_progress", WRITING) + message("created", []) + message("in_progress", [])
CALLING = step("created", calls_step()) + step("in_progress", calls_step())
DONE = event("done", "[DONE]")


def talk(deltas: list[Json], *content: Json) -> str:
    """A message from its step's beginning to its step's end."""
    return TALKING + said(*deltas) + message("completed", [*content]) + step("completed", WRITING)


def torn(run_ends: str, reason: str, step_ends: str, before: str = "", **ending: Json) -> str:
    """A run that ends while it writes."""
    incomplete = message("incomplete", [whole_text("Once upon")], incomplete_details={"reason": reason})
    closed = incomplete + step(step_ends, WRITING)
    return BEGUN + TALKING + said(*text("Once", " upon")) + before + closed + run(run_ends, **ending) + DONE


_THREAD = {"id": "thread_T", "object": "thread", "created_at": 1, "metadata": {}, "tool_resources": {}}
_PARIS, _ROME = function("call_a", "sky", '{"city":"Paris"}'), function("call_b", "sky", '{"city":"Rome"}')
_ASKED = {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": [_PARIS, _ROME]}}
_ANSWERED = calls_step(
    function("call_a", "sky", '{"city":"Paris"}', output="grey"),
    function("call_b", "sky", '{"city":"Rome"}', output="blue"),
)
_CITED = {"type": "file_citation", "text": MARK, "start_index": 5, "end_index": 5 + len(MARK)}
_CITATION = {**_CITED, "file_citation": {"file_id": "file-F"}}
_CITING = {"index": 0, **_CITED, "file_citation": {"file_id": "file-F", "quote": ""}}
_FOUND = {"file_id": "file-F", "file_name": "menu.txt", "score": 0.75, "attributes": {}}
_SEARCH = {"id": "call_s", "type": "file_search", "file_search": {"ranking_options": RANKING, "results": [_FOUND]}}
_SEARCHING = {"index": 0, **_SEARCH, "file_search": {"ranking_options": RANKING, "results": []}}
_OUTPUTS: list[Json] = [{"type": "logs", "logs": "1\n"}, {"type": "image", "image": {"file_id": "file-I"}}]
_IMAGE = {"type": "image_file", "image_file": {"file_id": "file-I"}}


def _code(**changes: Json) -> Json:
    return {"index": 0, "type": "code_interpreter", "code_interpreter": changes}


_DRAWN = {"id": "call_i", "type": "code_interpreter", "code_interpreter": {"input": "draw(1)", "outputs": _OUTPUTS}}
_DRAWING = [
    {**_code(input="", outputs=[]), "id": "call_i"},
    _code(input="draw"),
    _code(input="(1)"),
    _code(outputs=[{"index": 0, **_OUTPUTS[0]}]),
    _code(outputs=[{"index": 1, **_OUTPUTS[1]}]),
]
_TROUBLE = {"message": "Sorry, something went wrong.", "type": "server_error", "param": None, "code": None}

STREAMS: dict[str, str] = {
    "text": BEGUN + talk(text("It", " rains", " ☔."), whole_text("It rains ☔.")) + run("completed") + DONE,
    "calls": (
        event("thread.created", _THREAD)
        + BEGUN
        + CALLING
        + called(*call_pieces(0, _PARIS, '{"city"', ':"Paris"}'), *call_pieces(1, _ROME, '{"city":"Rome"}'))
        + run("requires_action", required_action=_ASKED)
        + DONE
    ),
    "outputs": (
        step("completed", _ANSWERED)
        + run("queued")
        + run("in_progress")
        + talk(text("Grey", " and", " blue."), whole_text("Grey and blue."))
        + run("completed")
        + DONE
    ),
    "search": (
        BEGUN
        + CALLING
        + called(_SEARCHING)
        + step("completed", calls_step(_SEARCH))
        + talk(
            [
                *text("Cake"),
                *text(" "),
                {"index": 0, "type": "text", "text": {"value": MARK, "annotations": [_CITING]}},
            ],
            whole_text(f"Cake {MARK}", _CITATION),
        )
        + run("completed")
        + DONE
    ),
    "interpreter": (
        BEGUN
        + CALLING
        + called(*_DRAWING)
        + step("completed", calls_step(_DRAWN))
        + talk([{"index": 0, **_IMAGE}, *text("A", " one.", index=1)], _IMAGE, whole_text("A one."))
        + run("completed")
        + DONE
    ),
    "refusal": (
        BEGUN
        + talk(
            [{"index": 0, "type": "refusal", "refusal": piece} for piece in ("I", " won't.")],
            {"type": "refusal", "refusal": "I won't."},
        )
        + run("completed")
        + DONE
    ),
    "cancelled": torn("cancelled", "run_cancelled", "cancelled", run("cancelling"), cancelled_at=9),
    "failed": torn(
        "failed", "run_failed", "failed", failed_at=9, last_error={"code": "server_error", "message": "Sorry."}
    ),
    "expired": torn("expired", "run_expired", "expired"),
    "incomplete": torn("incomplete", "max_tokens", "completed", incomplete_details={"reason": "max_completion_tokens"}),
    "error": BEGUN + TALKING + said(*text("It")) + event("error", {"error": _TROUBLE, **_TROUBLE}) + DONE,
    "comments": ": ping\n\n"
    + ": ping\n\n: ping\n\n".join([BEGUN, talk(text("Hi"), whole_text("Hi")), run("completed")])
    + DONE,
    "silence": BEGUN + TALKING + said(*text("It")),
}
"""By name. `calls` answers create-and-run, `outputs` a submit, the others the creation of a run; `error` raises, and
after `silence` nothing comes until the client is tired of waiting."""
