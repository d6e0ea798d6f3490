"""What one project has, no operation shows to another, changes for it, or lets it use."""

import asyncio
import re
from collections.abc import Iterator

import pytest

from orchestrator import projects, resources
from tests.api.checks import Json
from tests.api.http import Http
from tests.stack import Stack

STRANGE_KEY = "sk-asst-isolated-0123456789"
BODIES: dict[str, Json] = {
    "createRun": {"assistant_id": "asst_x"},
    "createMessage": {"role": "user", "content": "Hi"},
    "submitToolOuputsToRun": {"tool_outputs": []},
    "completeUpload": {"part_ids": ["part_x"]},
}
"""What a body must have; all others may be empty."""
OPEN = {"retrieveModel", "deleteModel"}
"""Operations on what belongs to no project."""


@pytest.fixture
def stranger(working: Stack) -> Iterator[Http]:
    """A client with another project's key."""

    async def register() -> None:
        async with resources.opened(working.settings) as opened, opened.database.transaction() as session:
            await projects.register(session, STRANGE_KEY, "isolated")

    asyncio.run(register())
    http = Http(working.base_url, STRANGE_KEY)
    with http.client:
        yield http


@pytest.fixture
def belongings(http: Http) -> dict[str, str]:
    """One of everything, by the names of path parameters."""
    run = http.ask_for_outputs()
    (message,), (step,) = http.messages(run["thread_id"]), http.steps(run)
    file = http.client.post("/files", files={"file": ("a.png", b"x")}, data={"purpose": "vision"}).json()
    wanted = {"filename": "a.png", "purpose": "vision", "bytes": 1, "mime_type": "image/png"}
    upload = http.post("/uploads", wanted)
    return {
        "assistant_id": run["assistant_id"],
        "thread_id": run["thread_id"],
        "run_id": run["id"],
        "message_id": message["id"],
        "step_id": step["id"],
        "file_id": file["id"],
        "upload_id": upload["id"],
    }


def operations(http: Http) -> list[tuple[str, str, str]]:
    """Method, path and name of every operation that names an object."""
    document = http.client.get(str(http.client.base_url.copy_with(path="/openapi.json"))).json()
    return [
        (method.upper(), path.removeprefix("/v1"), operation["operationId"])
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if "{" in path and operation["operationId"] not in OPEN
    ]


def test_case_160_no_operation_finds_what_another_project_has(
    http: Http, stranger: Http, belongings: dict[str, str]
) -> None:
    every = operations(http)
    assert len(every) >= 26

    for method, path, name in every:
        place = re.sub(r"\{(\w+)\}", lambda match: belongings[match[1]], path)
        if name == "addUploadPart":
            answer = stranger.client.post(place, files={"data": b"x"})
        elif method == "POST":
            answer = stranger.client.post(place, json=BODIES.get(name, {}))
        else:
            answer = stranger.client.request(method, place)
        assert answer.status_code == 404, (name, answer.text)
    waiting = f"/threads/{belongings['thread_id']}/runs/{belongings['run_id']}"
    stranger.refused("GET", waiting, status=404, wait=1)

    for method, path, _ in every:
        if method == "GET" and not path.endswith(("/events", "/content")):
            http.get(re.sub(r"\{(\w+)\}", lambda match: belongings[match[1]], path))


@pytest.mark.parametrize("path", ["/assistants", "/threads", "/files"])
def test_case_160_no_list_shows_what_another_project_has(stranger: Http, belongings: dict[str, str], path: str) -> None:
    theirs = belongings[f"{path[1:-1]}_id"]
    assert theirs not in {each["id"] for each in stranger.get(path, limit=100)["data"]}
    assert stranger.refused("GET", path, after=theirs)["code"] == "invalid_value"


def test_case_160_no_message_takes_a_file_of_another_project(stranger: Http, belongings: dict[str, str]) -> None:
    file_id = belongings["file_id"]
    image = [{"type": "image_file", "image_file": {"file_id": file_id}}]
    said: list[Json] = [
        {"role": "user", "content": image},
        {"role": "user", "content": "Hi", "attachments": [{"file_id": file_id, "tools": []}]},
    ]
    own = stranger.thread("Hi")["id"]
    assistant = stranger.post("/assistants", {"model": "scripted"})["id"]

    for message in said:
        for path, body in (
            ("/threads", {"messages": [message]}),
            (f"/threads/{own}/messages", message),
            (f"/threads/{own}/runs", {"assistant_id": assistant, "additional_messages": [message]}),
            ("/threads/runs", {"assistant_id": assistant, "thread": {"messages": [message]}}),
        ):
            assert file_id in stranger.refused("POST", path, body)["message"]
