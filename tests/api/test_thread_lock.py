"""One active run a thread: what is refused meanwhile, with which words, and when it is over."""

import asyncio
import re
from collections import Counter
from typing import Any

import openai
import pytest

from tests.api.checks import Json
from tests.api.http import WEATHER, Http, path_of

ACTIVE = ("queued", "in_progress", "requires_action", "cancelling")
LOCKED = re.compile(r"Can't add messages to thread_(\w+) while a run run_(\w+) is active\.")


def active_run(http: Http, lonely: Http, status: str) -> Json:
    """A run that stays in this status."""
    if status == "queued":
        return lonely.start("Hi")
    if status == "requires_action":
        return http.ask_for_outputs()
    return http.wait(http.start("[[text=never hold=lock]]"), "in_progress")


@pytest.mark.parametrize("status", ["queued", "in_progress", "requires_action"])
def test_cases_17_and_18_an_active_run_owns_its_thread(http: Http, lonely: Http, status: str) -> None:
    run = active_run(http, lonely, status)
    thread = run["thread_id"]

    message = http.refused("POST", f"/threads/{thread}/messages", {"role": "user", "content": "x"})
    again = http.refused("POST", f"/threads/{thread}/runs", {"assistant_id": run["assistant_id"]})

    assert LOCKED.fullmatch(message["message"])
    assert message["message"] == f"Can't add messages to {thread} while a run {run['id']} is active."
    assert again["message"] == f"Thread {thread} already has an active run {run['id']}."
    for error in (message, again):
        assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, None)
    assert [message["role"] for message in http.messages(thread)].count("user") == 1
    http.post(f"{path_of(run)}/cancel")


def test_case_60_an_error_before_the_stream_is_plain_json(http: Http) -> None:
    run = http.ask_for_outputs()
    runs = f"/threads/{run['thread_id']}/runs"

    locked = http.refused("POST", runs, {"assistant_id": run["assistant_id"], "stream": True})
    missing = http.refused("POST", "/threads/runs", {"assistant_id": "asst_none", "stream": True}, status=404)

    assert locked["message"] == f"Thread {run['thread_id']} already has an active run {run['id']}."
    assert missing["message"] == "No assistant found with id 'asst_none'."


def test_case_79_messages_of_a_refused_run_are_not_kept(http: Http) -> None:
    run = http.ask_for_outputs()
    brought = [{"role": "user", "content": "me too"}]

    runs = f"/threads/{run['thread_id']}/runs"
    http.refused("POST", runs, {"assistant_id": run["assistant_id"], "additional_messages": brought})
    body = {"assistant_id": "asst_none", "additional_messages": brought}
    http.refused("POST", f"/threads/{http.thread()['id']}/runs", body, status=404)

    assert len(http.messages(run["thread_id"])) == 1


async def test_case_19_of_twenty_runs_at_once_exactly_one_is_made(http: Http) -> None:
    assistant, thread = http.assistant(), http.thread("[[text=never hold=storm]]")
    path, body = f"/threads/{thread['id']}/runs", {"assistant_id": assistant["id"]}

    async with http.awaited() as client:
        answers = await asyncio.gather(*[client.post(path, json=body) for _ in range(20)])
    statuses = Counter(answer.status_code for answer in answers)

    assert statuses == {200: 1, 400: 19}
    assert len(http.get(f"/threads/{thread['id']}/runs")["data"]) == 1


async def test_messages_and_runs_at_once_never_mix(http: Http, async_client: openai.AsyncOpenAI) -> None:
    assistant, thread = http.assistant(), http.thread("[[text=never hold=storm]]")

    async def add(number: int) -> Any:
        await async_client.beta.threads.messages.create(thread["id"], role="user", content=str(number))

    async def run() -> Any:
        return await async_client.beta.threads.runs.create(thread["id"], assistant_id=assistant["id"])

    results = await asyncio.gather(
        *[add(n) for n in range(5)], run(), *[add(n) for n in range(5)], return_exceptions=True
    )

    refused = [result for result in results if isinstance(result, Exception)]
    assert all(isinstance(error, openai.BadRequestError) for error in refused)
    said = [message for message in http.messages(thread["id"]) if message["role"] == "user"]
    assert len(said) == 1 + 10 - len(refused)


@pytest.mark.parametrize(
    ("said", "status"),
    [("Hi", "completed"), ("[[fail=400]]", "failed"), ("[[text=x finish=length]]", "incomplete")],
)
def test_case_20_a_run_that_is_over_frees_its_thread(http: Http, said: str, status: str) -> None:
    run = http.finish(said)
    assert run["status"] == status

    check_free(http, run)


def test_case_20_a_cancelled_run_frees_its_thread(http: Http) -> None:
    run = http.ask_for_outputs()
    http.post(f"{path_of(run)}/cancel")

    check_free(http, http.wait(run, "cancelled"))


def check_free(http: Http, run: Json) -> None:
    """A thread takes messages and runs again."""
    http.post(f"/threads/{run['thread_id']}/messages", {"role": "user", "content": "Hi"})
    body = {"assistant_id": run["assistant_id"], "tools": [WEATHER]}
    assert http.wait(http.post(f"/threads/{run['thread_id']}/runs", body))["status"] == "completed"


def test_reads_and_metadata_are_free_while_a_run_is_active(http: Http) -> None:
    run = http.ask_for_outputs()
    (message,) = http.messages(run["thread_id"])
    changed = {"metadata": {"k": "v"}}

    assert http.post(f"/threads/{run['thread_id']}", changed)["metadata"] == {"k": "v"}
    assert http.post(f"/threads/{run['thread_id']}/messages/{message['id']}", changed)["metadata"] == {"k": "v"}
    assert http.post(path_of(run), changed)["metadata"] == {"k": "v"}
    assert http.get(path_of(run))["status"] == "requires_action"
