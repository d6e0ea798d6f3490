"""Rows as the objects that clients of the original saw: `dump(run(row))` is the body of a response and the data of an
event.

Where the original's wire and its specification disagree, both sets of keys are emitted. Whole objects carry their
nulls. JSON columns hold wire shapes, so they pass through untouched. `orchestrator.wire.schemas` describes the same
shapes with the official client's own types, and the tests hold the two together.
"""

from collections.abc import Sequence

import orjson

from orchestrator.foreign import Json
from orchestrator.model import Usage
from orchestrator.tables import ACTIVE, Assistant, File, Message, Run, RunStep, Thread, Upload, UploadPart

WireObject = dict[str, Json]


def dump(value: Json) -> bytes:
    """One line of JSON."""
    return orjson.dumps(value)


def assistant(row: Assistant) -> WireObject:
    """An `assistant`."""
    return {
        "id": row.id,
        "object": "assistant",
        "created_at": row.created_at,
        "name": row.name,
        "description": row.description,
        "model": row.model,
        "instructions": row.instructions,
        "tools": row.tools,
        "tool_resources": row.tool_resources,
        "metadata": row.metadata_,
        "temperature": row.temperature,
        "top_p": row.top_p,
        "reasoning_effort": row.reasoning_effort,
        "response_format": row.response_format,
    }


def thread(row: Thread) -> WireObject:
    """A `thread`. `on_active_run` is ours: shown only where somebody has chosen what the original did not have."""
    ours = {} if row.on_active_run == "reject" else {"on_active_run": row.on_active_run}
    return {
        "id": row.id,
        "object": "thread",
        "created_at": row.created_at,
        "metadata": row.metadata_,
        "tool_resources": row.tool_resources,
        **ours,
    }


def message(row: Message) -> WireObject:
    """A `thread.message`."""
    return {
        "id": row.id,
        "object": "thread.message",
        "created_at": row.created_at,
        "assistant_id": row.assistant_id,
        "thread_id": row.thread_id,
        "run_id": row.run_id,
        "status": row.status,
        "incomplete_details": row.incomplete_details,
        "incomplete_at": row.incomplete_at,
        "completed_at": row.completed_at,
        "role": row.role,
        "content": row.content,
        "attachments": row.attachments,
        "metadata": row.metadata_,
    }


def run(row: Run) -> WireObject:
    """A `thread.run`. `usage` is shown once the run is over, `expires_at` until then (or as evidence if it expired)."""
    moving = row.status in ACTIVE
    return {
        "id": row.id,
        "object": "thread.run",
        "created_at": row.created_at,
        "assistant_id": row.assistant_id,
        "thread_id": row.thread_id,
        "status": row.status,
        "started_at": row.started_at,
        "expires_at": row.expires_at if moving or row.status == "expired" else None,
        "cancelled_at": row.cancelled_at,
        "failed_at": row.failed_at,
        "completed_at": row.completed_at,
        "required_action": row.required_action if row.status == "requires_action" else None,
        "last_error": row.last_error,
        "model": row.model,
        "instructions": row.instructions,
        "tools": row.tools,
        "tool_resources": row.tool_resources,
        "metadata": row.metadata_,
        "temperature": row.temperature,
        "top_p": row.top_p,
        "reasoning_effort": row.reasoning_effort,
        "max_completion_tokens": row.max_completion_tokens,
        "max_prompt_tokens": row.max_prompt_tokens,
        "truncation_strategy": row.truncation_strategy,
        "incomplete_details": row.incomplete_details,
        "usage": None if moving else row.usage,
        "response_format": row.response_format,
        "tool_choice": row.tool_choice,
        "parallel_tool_calls": row.parallel_tool_calls,
    }


def run_step(row: RunStep, expires_at: int | None) -> WireObject:
    """A `thread.run.step`; `expires_at` is the run's while it moves, None afterwards.

    The calls of a step that is still in progress are shown as events told them: none until the model has finished them.
    """
    return {
        "id": row.id,
        "object": "thread.run.step",
        "created_at": row.created_at,
        "run_id": row.run_id,
        "assistant_id": row.assistant_id,
        "thread_id": row.thread_id,
        "type": row.type,
        "status": row.status,
        "cancelled_at": row.cancelled_at,
        "completed_at": row.completed_at,
        "expires_at": expires_at,
        "expired_at": row.expired_at,
        "failed_at": row.failed_at,
        "last_error": row.last_error,
        "step_details": row.step_details,
        "metadata": row.metadata_,
        "usage": None if row.status == "in_progress" else row.usage,
    }


def file(row: File) -> WireObject:
    """A `file`. One that is there has been processed: the original had no other status left either."""
    return {
        "object": "file",
        "id": row.id,
        "purpose": row.purpose,
        "filename": row.filename,
        "bytes": row.bytes,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "status": "processed",
        "status_details": None,
    }


def file_deleted(id_: str) -> WireObject:
    """The answer to a file's DELETE, which is called like the file itself."""
    return {"object": "file", "deleted": True, "id": id_}


def upload(row: Upload, made: File | None = None) -> WireObject:
    """An `upload`, with the file that it has become."""
    return {
        "id": row.id,
        "object": "upload",
        "bytes": row.bytes,
        "created_at": row.created_at,
        "filename": row.filename,
        "purpose": row.purpose,
        "status": row.status,
        "expires_at": row.expires_at,
        "file": None if made is None else file(made),
    }


def upload_part(row: UploadPart) -> WireObject:
    """An `upload.part`."""
    return {"id": row.id, "object": "upload.part", "created_at": row.created_at, "upload_id": row.upload_id}


def usage(tokens: Usage) -> WireObject:
    """A `usage` object, with the details that the original's wire had (`prompt_token_details` is its own spelling)."""
    return {
        "prompt_tokens": tokens.prompt_tokens,
        "completion_tokens": tokens.completion_tokens,
        "total_tokens": tokens.total_tokens,
        "prompt_token_details": {"cached_tokens": tokens.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": tokens.reasoning_tokens},
    }


def usage_sum(parts: Sequence[WireObject | None]) -> WireObject:
    """The sum of `usage` objects; a missing one counts nothing."""
    total = Usage()
    for part in parts:
        if part is not None:
            total += Usage(
                part["prompt_tokens"],
                part["completion_tokens"],
                part["prompt_token_details"]["cached_tokens"],
                part["completion_tokens_details"]["reasoning_tokens"],
            )
    return usage(total)


def required_action(calls: Sequence[WireObject]) -> WireObject:
    """The `required_action` of a run that waits for the outputs of these calls of its step."""
    asked = [{"id": call["id"], "type": "function", "function": _unanswered(call["function"])} for call in calls]
    return {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": asked}}


def _unanswered(function: WireObject) -> WireObject:
    return {"name": function["name"], "arguments": function["arguments"]}


def text_part(value: str) -> WireObject:
    """A text content part without annotations."""
    return {"type": "text", "text": {"value": value, "annotations": []}}


def deleted(kind: str, id_: str) -> WireObject:
    """The answer to a DELETE: `kind` is `assistant`, `thread` or `thread.message`."""
    return {"id": id_, "object": f"{kind}.deleted", "deleted": True}


def page(items: Sequence[WireObject], *, has_more: bool) -> WireObject:
    """A `list` object; `first_id` and `last_id` are null on an empty page."""
    return {
        "object": "list",
        "data": items,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }
