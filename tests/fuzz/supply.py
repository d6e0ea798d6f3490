"""Real objects for the fuzz run, made before it begins: runs in several states, and what may be used up.

`SCENES` and `EXPENDABLE` are what a new route has to be added to: a path parameter that no scene knows is an error of
the run, not something that it passes over.
"""

import hashlib
from collections.abc import Callable
from typing import TypedDict

from tests.api.checks import Json
from tests.api.http import Http, outputs, path_of

PATH = "FUZZ_SUPPLY"
"""The environment variable that tells the hooks where the supply lies."""
SPARE = 12
"""How many objects a deletion can use up; afterwards it meets what is gone."""

BYTES = b"not much of an image"

Ids = dict[str, str]


class Supply(TypedDict):
    """Ids by the names of the parameters that they are for. All of one scene belong together."""

    scenes: list[Ids]
    expendable: dict[str, list[Ids]]


def stocked(http: Http) -> Supply:
    """Make everything."""
    return {
        "scenes": [_scene(http, run) for run in _runs(http)],
        "expendable": {route: [make(http) for _ in range(SPARE)] for route, make in EXPENDABLE.items()},
    }


def _runs(http: Http) -> list[Json]:
    cancelled = http.ask_for_outputs()
    http.post(f"{path_of(cancelled)}/cancel")
    answered = http.ask_for_outputs()
    http.post(f"{path_of(answered)}/submit_tool_outputs", outputs(answered))
    return [
        http.finish("Hi"),
        http.finish("[[fail=400]]"),
        http.finish("[[tokens=9 finish=length]]"),
        http.wait(cancelled),
        http.wait(answered),
        http.ask_for_outputs(),
    ]


def _scene(http: Http, run: Json) -> Ids:
    steps, messages, upload = http.steps(run), http.messages(run["thread_id"]), _upload(http)
    waiting = run["required_action"] or {"submit_tool_outputs": {"tool_calls": [{"id": "call_none"}]}}
    return {
        "assistant_id": run["assistant_id"],
        "thread_id": run["thread_id"],
        "message_id": messages[-1]["id"],
        "run_id": run["id"],
        "step_id": steps[-1]["id"] if steps else "step_none",
        "tool_call_id": waiting["submit_tool_outputs"]["tool_calls"][0]["id"],
        "file_id": _file(http)["file_id"],
        **upload,
        "model": "gpt-4o",
        "mime_type": "image/png",
        "filename": "lines.jsonl",
        "md5": hashlib.md5(BYTES, usedforsecurity=False).hexdigest(),
        "url": "https://images.example/cat.png",
    }


def _message(http: Http) -> Ids:
    thread_id = http.thread("Hi")["id"]
    return {"thread_id": thread_id, "message_id": http.messages(thread_id)[0]["id"]}


def _file(http: Http) -> Ids:
    answer = http.client.post("/files", files={"file": ("lines.jsonl", b"{}\n")}, data={"purpose": "fine-tune"})
    return {"file_id": answer.json()["id"]}


def _upload(http: Http) -> Ids:
    facts = {"filename": "cat.png", "purpose": "vision", "mime_type": "image/png", "bytes": len(BYTES)}
    upload_id = http.post("/uploads", facts)["id"]
    part = http.client.post(f"/uploads/{upload_id}/parts", files={"data": BYTES}).json()
    return {"upload_id": upload_id, "part_id": part["id"]}


def _waiting(http: Http) -> Ids:
    run = http.ask_for_outputs()
    (call,) = run["required_action"]["submit_tool_outputs"]["tool_calls"]
    return {"thread_id": run["thread_id"], "run_id": run["id"], "tool_call_id": call["id"]}


EXPENDABLE: dict[str, Callable[[Http], Ids]] = {
    "DELETE /v1/assistants/{assistant_id}": lambda http: {"assistant_id": http.assistant()["id"]},
    "DELETE /v1/threads/{thread_id}": lambda http: {"thread_id": http.thread("Hi")["id"]},
    "DELETE /v1/threads/{thread_id}/messages/{message_id}": _message,
    "DELETE /v1/files/{file_id}": _file,
    "DELETE /v1/models/{model}": lambda _: {"model": "gpt-4o"},
    "POST /v1/uploads/{upload_id}/complete": _upload,
    "POST /v1/uploads/{upload_id}/cancel": _upload,
    "POST /v1/threads/{thread_id}/runs/{run_id}/cancel": _waiting,
    "POST /v1/threads/{thread_id}/runs/{run_id}/submit_tool_outputs": _waiting,
}
"""What uses its object up: where new ones come from."""
