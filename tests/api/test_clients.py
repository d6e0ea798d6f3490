"""The official Python client in its major releases, called and awaited, each in a process of its own without ours.

The API sends a comment after every 0.1 s of silence, far more often than usual, so that all of them meet comments.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from tests.clients import install, releases, replay
from tests.clients.facts import UNKNOWN
from tests.fakes.model_control import RemoteModelServer
from tests.stack import API_KEY, ROOT, Stack

pytestmark = pytest.mark.timeout(install.TEST_TIMEOUT)

LOCKS = Path(install.__file__).parent
Told = dict[str, Any]

TEXT_EVENTS = [
    "thread.run.created",
    "thread.run.queued",
    "thread.run.in_progress",
    "thread.run.step.created",
    "thread.run.step.in_progress",
    "thread.message.created",
    "thread.message.in_progress",
    "thread.message.delta",
    "thread.message.completed",
    "thread.run.step.completed",
    "thread.run.completed",
]
CALL_EVENTS = [*TEXT_EVENTS[:5], "thread.run.step.delta", "thread.run.requires_action"]
RESUMED_EVENTS = ["thread.run.step.completed", *TEXT_EVENTS[1:]]
MESSAGE_CALLED = [
    "run_step_created",
    "message_created",
    "text_created",
    "text_delta",
    "message_delta",
    "text_done",
    "message_done",
    "run_step_done",
    "end",
]
CALL_CALLED = ["run_step_created", "tool_call_created", "run_step_delta", "tool_call_delta", "tool_call_done", "end"]
RESUMED_CALLED = ["run_step_done", *(name for name in MESSAGE_CALLED if name != "run_step_done")]  # first calls only


@pytest.fixture(scope="module")
def address(stack: Stack) -> Iterator[str]:
    """An API process that sends comments often."""
    with stack.api(ASSISTANTD_STREAM_PING="0.1") as base_url:
        yield base_url


@pytest.fixture(scope="module")
def player() -> Iterator[str]:
    """The base URL of a server that plays streams."""
    with replay.playing(replay.all_streams()) as base_url:
        yield base_url


@pytest.fixture(scope="module")
def told_by_all(stack: Stack, address: str, player: str) -> dict[str, Told]:
    """What each release of the client told."""
    stack.model.reset()
    return install.all_told(lambda release: tell(release, stack, address, player), releases.PYTHON)


@pytest.fixture(
    scope="module",
    params=[pytest.param(release, marks=pytest.mark.through(releases.python(release))) for release in releases.PYTHON],
)
def told_by_release(request: pytest.FixtureRequest, told_by_all: dict[str, Told]) -> Told:
    """What one of them told."""
    return told_by_all[request.param]


def tell(release: str, stack: Stack, address: str, player: str) -> Told:
    """What `python -m tests.clients` prints under one release of the client."""
    played = {name: replay.request_for(stream) for name, stream in replay.all_streams().items()}
    arguments = ["-P", "-s", "-W", "error::UserWarning"]
    path = str(ROOT)
    if release != "openai 3":
        arguments.append("-S")  # without our own packages
        path += os.pathsep + str(install.python_client(LOCKS / f"{release.replace(' ', '-')}.lock"))
    kept = {name: value for name, value in stack.environment.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, *arguments, "-m", "tests.clients"],
        env={**kept, "PYTHONPATH": path, "OPENAI_BASE_URL": address, "OPENAI_API_KEY": API_KEY},
        input=json.dumps({"base_url": player, "requests": played}),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: Told = json.loads(done.stdout)
    assert told["version"] == releases.PYTHON[release]
    return told


@pytest.fixture(params=["sync", "async"])
def told(request: pytest.FixtureRequest, told_by_release: Told) -> Told:
    """The same, of one of the two clients of the release."""
    found: Told = told_by_release[request.param]
    return found


def test_case_01_an_assistant_of_a_model_alone_has_every_default(told: Told) -> None:
    made = told["defaults"]["made"]

    assert made == told["defaults"]["read"]
    assert made.pop("id").startswith("asst_")
    assert made.pop("created_at") > 0
    assert made == {
        "object": "assistant",
        **dict.fromkeys(("name", "description", "instructions", "reasoning_effort")),
        "model": "m",
        "tools": [],
        "tool_resources": {},
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
        "response_format": "auto",
    }


def test_case_05_create_and_poll_returns_the_completed_run(told: Told) -> None:
    assert told["create_and_poll"] == {
        "statuses": ["completed", "completed"],
        "texts": ["Hello from the model."] * 2,
        "metadata": {"k": "v"},
        "usage": True,
        "times": {"started": True, "completed": True, "expires_at": None},
        "listed": [True],
    }


def test_cases_09_and_58_a_handler_is_told_of_everything_that_a_streamed_answer_consists_of(told: Told) -> None:
    facts = told["stream"]

    assert facts.get("raised") is None
    assert facts["events"] == TEXT_EVENTS
    assert facts["text"] == facts["final_text"] == "Hello from the model."
    assert facts["contents"] == [[{"type": "text", "text": {"value": facts["text"], "annotations": []}}]]
    assert facts["steps"] == ["message_creation"]
    assert facts["called"] == MESSAGE_CALLED


def test_comments_between_the_events_disturb_no_client(told: Told) -> None:
    facts = told["stream_slowly"]

    assert facts.get("raised") is None
    assert facts["text"] == facts["final_text"] == "One two three."
    assert facts["events"] == TEXT_EVENTS


def test_events_can_be_read_without_a_handler(told: Told) -> None:
    assert told["stream_without_helper"] == {"events": TEXT_EVENTS, "text": "Hello from the model."}


def test_case_15_tool_outputs_can_be_submitted_to_a_stream(told: Told) -> None:
    facts = told["submit_tool_outputs_stream"]

    assert facts.get("raised") is None
    assert facts["statuses"] == ["requires_action", "completed"]
    assert facts["arguments"] == [{"city": "Paris"}]
    assert facts["same_ids"]
    assert facts["text"] == "It rains in Paris."
    assert facts["outputs"] == ["weather of Paris"]
    assert facts["events"] == [CALL_EVENTS, RESUMED_EVENTS]
    assert facts["called"] == [CALL_CALLED, RESUMED_CALLED]


def test_tool_outputs_of_parallel_calls_can_be_submitted_and_polled(told: Told) -> None:
    assert told["submit_tool_outputs_and_poll"] == {
        "statuses": ["requires_action", "completed"],
        "cities": ["Paris", "Rome"],
        "text": "Rain, and sun.",
        "outputs": ["weather of Paris", "weather of Rome"],
    }


def test_case_15_parallel_calls_are_put_together_from_their_deltas(told: Told) -> None:
    expected = {"status": "requires_action", "cities": ["Paris", "Rome"], "as_asked": True}

    assert told["stream_parallel_calls"] == expected


def test_case_30_lists_longer_than_a_page_are_walked_to_their_end(told: Told) -> None:
    assert told["page_through"] == {"forward": [*range(25)], "backward": [*reversed(range(25))]}


def test_cases_24_and_25_errors_raise_the_classes_that_programs_catch(told: Told) -> None:
    facts = told["errors"]

    assert facts.get("raised") is None
    for error, expected in {
        "unknown": ("NotFoundError", 404, None, None, f"No assistant found with id '{UNKNOWN}'."),
        "wrong_type": ("BadRequestError", 400, "invalid_type", "messages", "expected an array, but got a string"),
        "unauthenticated": ("AuthenticationError", 401, "invalid_api_key", None, "Incorrect API key provided"),
    }.items():
        *parts, text = expected
        assert [facts[error][part] for part in ("class", "status", "code", "param")] == parts
        assert text in facts[error]["text"]
        assert facts[error]["type"] == "invalid_request_error"
        assert facts[error]["request_id"]


def test_cases_26_and_138_files_arrive_whole_in_one_request_and_in_parts(told: Told) -> None:
    facts = told["files"]

    assert facts.get("raised") is None
    assert facts["contents"] == ["abc", "0123456789" * 25]
    assert facts["sent"]["id"].startswith("file-")
    named = [(file["filename"], file["bytes"], file["purpose"]) for file in (facts["sent"], facts["upload"]["file"])]
    assert named == [("naïve 文.txt", 3, "vision"), ("long.png", 250, "vision")]
    assert (facts["sent"]["object"], facts["sent"]["expires_at"]) == ("file", None)
    assert (facts["upload"]["status"], facts["upload"]["bytes"]) == ("completed", 250)


@pytest.mark.parametrize("name", sorted(replay.all_streams()))
def test_case_159_a_stream_of_the_originals_form_is_read_as_it_was_meant(told: Told, name: str) -> None:
    facts = told["replayed"][name]

    raised, called = facts["raised"], facts["called"]
    expected = replay.outcome(replay.all_streams()[name])
    assert {key: facts[key] for key in expected} == expected
    assert called[-1] == "end"
    if name == "error":
        assert raised == {"class": "APIError", "text": "Sorry, something went wrong."}
    elif name == "silence":
        assert {"timeout", "exception"} <= set(called)
    else:
        assert raised is None


def test_every_callback_of_a_handler_is_called_by_one_stream_or_another(told: Told) -> None:
    called = {f"on_{name}" for facts in told["replayed"].values() for name in facts.get("called", ())}

    assert called == {name for name in dir(openai.AssistantEventHandler) if name.startswith("on_")} - {"on_event"}


def test_the_events_that_the_clients_read_carry_ids_and_comments(address: str, model: RemoteModelServer) -> None:
    headers = {"Authorization": f"Bearer {API_KEY}"}
    with httpx2.Client(base_url=address, headers=headers, timeout=30) as http:
        assistant = http.post("assistants", json={"model": "gpt-4o"}).json()["id"]
        thread = {"messages": [{"role": "user", "content": "[[text=Hello first=0.4]]"}]}

        body = {"assistant_id": assistant, "thread": thread, "stream": True}
        lines = http.post("threads/runs", json=body).text.splitlines()

    assert any(line.startswith("id:") for line in lines)
    assert any(line.startswith(":") for line in lines)
