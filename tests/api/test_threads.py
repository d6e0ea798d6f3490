"""Threads and their messages: what is stored, what is read back, what is refused."""

import openai
import pytest

from tests.api.checks import Json
from tests.api.http import Http, path_of, read_until
from tests.fakes.model_control import RemoteModelServer

PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="


@pytest.mark.parametrize("how", ["no body", "{}", "json type without body", "null members"])
def test_case_02_a_thread_needs_nothing(http: Http, how: str) -> None:
    sent: Json = {
        "no body": {},
        "{}": {"json": {}},
        "json type without body": {"content": b"", "headers": {"content-type": "application/json"}},
        "null members": {"json": {"metadata": None, "tool_resources": None}},
    }[how]

    response = http.client.post("/threads", **sent)

    thread = response.json()
    assert response.status_code == 200
    assert thread.keys() == {"id", "object", "created_at", "metadata", "tool_resources"}
    assert thread["id"].startswith("thread_")
    assert (thread["object"], thread["metadata"], thread["tool_resources"]) == ("thread", {}, {})


def test_case_03_a_text_becomes_a_content_part(http: Http) -> None:
    thread = http.post("/threads")

    message = http.post(f"/threads/{thread['id']}/messages", {"role": "user", "content": "hi"})

    assert message["content"] == [{"type": "text", "text": {"value": "hi", "annotations": []}}]
    assert (message["thread_id"], message["role"], message["status"]) == (thread["id"], "user", "completed")
    assert (message["attachments"], message["metadata"]) == ([], {})
    assert (message["assistant_id"], message["run_id"], message["incomplete_details"]) == (None, None, None)


def test_case_109_messages_of_one_request_keep_their_order_within_a_second(http: Http) -> None:
    messages = [{"role": ("user", "assistant")[n % 2], "content": str(n)} for n in range(32)]
    thread = http.post("/threads", {"messages": messages})

    newest_first = http.get(f"/threads/{thread['id']}/messages", limit=100)["data"]

    assert [message["content"][0]["text"]["value"] for message in newest_first] == [str(n) for n in range(31, -1, -1)]
    assert newest_first[0]["role"] == "assistant"
    assert newest_first[0]["assistant_id"] is None


def test_case_110_a_request_brings_at_most_32_messages(http: Http) -> None:
    error = http.refused("POST", "/threads", {"messages": [{"role": "user", "content": "x"}] * 33})

    assert (error["param"], error["code"]) == ("messages", "array_above_max_length")


def test_case_111_only_users_and_assistants_speak(http: Http) -> None:
    thread = http.thread()

    error = http.refused("POST", f"/threads/{thread['id']}/messages", {"role": "system", "content": "x"})

    expected = "Invalid value: 'system'. Supported values are: 'user' and 'assistant'."
    assert (error["message"], error["param"], error["code"]) == (expected, "role", "invalid_value")


def test_case_112_content_parts_are_read_back_with_their_defaults(http: Http) -> None:
    thread = http.thread()
    image = {"type": "image_url", "image_url": {"url": PIXEL}}
    content = [{"type": "text", "text": "Look:"}, image]

    message = http.post(f"/threads/{thread['id']}/messages", {"role": "user", "content": content})

    assert message["content"] == [
        {"type": "text", "text": {"value": "Look:", "annotations": []}},
        {"type": "image_url", "image_url": {"url": PIXEL, "detail": "auto"}},
    ]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ([], "empty_array"),
        ("x" * 256_001, "string_above_max_length"),
        ([{"type": "text", "text": "x" * 256_001}], "string_above_max_length"),
        ([{"type": "text", "text": {"value": "x"}}], "invalid_type"),
        ([{"type": "image_url", "image_url": {"url": "ftp://x"}}], "invalid_value"),
        ([{"type": "video"}], "invalid_value"),
        (7, "invalid_type"),
        (None, "invalid_type"),
    ],
)
def test_case_113_content_is_bounded(http: Http, content: Json, code: str) -> None:
    thread = http.thread()

    error = http.refused("POST", f"/threads/{thread['id']}/messages", {"role": "user", "content": content})

    assert error["code"] == code
    assert error["param"].startswith("content")
    assert http.messages(thread["id"]) == []


def test_case_119_messages_can_be_listed_by_run(http: Http) -> None:
    first = http.finish("one")
    path = f"/threads/{first['thread_id']}"
    http.post(f"{path}/messages", {"role": "user", "content": "two"})
    second = http.wait(http.post(f"{path}/runs", {"assistant_id": first["assistant_id"]}))

    for run in (first, second):
        (message,) = http.get(f"{path}/messages", run_id=run["id"])["data"]
        assert (message["run_id"], message["role"]) == (run["id"], "assistant")


def test_case_120_only_the_metadata_of_a_message_changes(http: Http) -> None:
    thread = http.thread("hi")
    (before,) = http.messages(thread["id"])
    path = f"/threads/{thread['id']}/messages/{before['id']}"

    after = http.post(path, {"metadata": {"k": "v"}})
    error = http.refused("POST", path, {"content": "new"})

    assert after == {**before, "metadata": {"k": "v"}} == http.get(path)
    assert (error["param"], error["code"]) == ("content", "unknown_parameter")


def test_case_121_a_deleted_message_is_gone(http: Http) -> None:
    thread = http.thread("one", "two")
    first, second = http.messages(thread["id"])
    path = f"/threads/{thread['id']}/messages/{first['id']}"

    assert http.delete(path) == {"id": first["id"], "object": "thread.message.deleted", "deleted": True}

    assert http.messages(thread["id"]) == [second]
    assert http.refused("GET", path, status=404)["message"] == f"No message found with id '{first['id']}'."


def test_case_122_a_deleted_thread_takes_everything_along(http: Http) -> None:
    run = http.finish("hi")
    thread, (message, _), (step,) = run["thread_id"], http.messages(run["thread_id"]), http.steps(run)
    inner = [f"/messages/{message['id']}", "/messages", f"/runs/{run['id']}", "/runs"]
    steps = [f"/runs/{run['id']}/steps", f"/runs/{run['id']}/steps/{step['id']}", f"/runs/{run['id']}/events"]

    assert http.delete(f"/threads/{thread}") == {"id": thread, "object": "thread.deleted", "deleted": True}

    for path in ["", *inner, *steps]:
        error = http.refused("GET", f"/threads/{thread}{path}", status=404)
        assert error["message"] == f"No thread found with id '{thread}'."
    assert http.get(f"/assistants/{run['assistant_id']}")


def test_a_thread_that_is_deleted_during_its_run_stops_the_model_and_ends_streams(
    http: Http, model: RemoteModelServer
) -> None:
    run = http.start("[[text=never hold=forever]]")
    model.wait_for(lambda state: state["open_streams"] == 1)

    with http.streaming(f"{path_of(run)}/events") as lines:
        read_until(lines, "thread.message.in_progress")
        http.delete(f"/threads/{run['thread_id']}")
        model.wait_for(lambda state: state["disconnects"] == 1)
        told = [line for line in lines if line.startswith("event: ")]

    assert told[-5:] == [
        f"event: {event}"
        for event in (
            "thread.run.cancelling",
            "thread.message.incomplete",
            "thread.run.step.cancelled",
            "thread.run.cancelled",
            "done",
        )
    ]


def test_case_123_a_message_of_another_thread_is_not_found(http: Http) -> None:
    thread, other = http.thread("hi"), http.thread()
    (message,) = http.messages(thread["id"])

    error = http.refused("GET", f"/threads/{other['id']}/messages/{message['id']}", status=404)

    assert error["message"] == f"No message found with id '{message['id']}'."


def test_threads_and_messages_through_the_official_client(client: openai.OpenAI) -> None:
    thread = client.beta.threads.create(messages=[{"role": "user", "content": "hi"}], metadata={"k": "v"})
    message = client.beta.threads.messages.create(thread.id, role="assistant", content="hello")

    listed = client.beta.threads.messages.list(thread.id, order="asc")
    changed = client.beta.threads.update(thread.id, metadata={})
    deleted = client.beta.threads.messages.delete(message.id, thread_id=thread.id)

    assert [item.role for item in listed] == ["user", "assistant"]
    assert changed.metadata == {}
    assert deleted.deleted
    assert client.beta.threads.delete(thread.id).object == "thread.deleted"
