"""Lists: pages, cursors, bounds; and that the official clients' paging ends, having seen everything once."""

from typing import Any

import openai
import pytest

from tests.api.checks import Json
from tests.api.http import Http, path_of


@pytest.fixture
def thread(http: Http) -> Json:
    """A thread of ten messages."""
    return http.thread(*map(str, range(10)))


def said(page: Json) -> str:
    return "".join(message["content"][0]["text"]["value"] for message in page["data"])


def test_case_30_following_after_yields_everything_once_in_order(http: Http, thread: Json) -> None:
    seen, page = "", http.get(f"/threads/{thread['id']}/messages", limit=2)
    while True:
        seen += said(page)
        assert page["last_id"] == page["data"][-1]["id"]
        if not page["has_more"]:
            break
        page = http.get(f"/threads/{thread['id']}/messages", limit=2, after=page["last_id"])

    assert seen == "9876543210"


def test_case_30_through_the_official_client(client: openai.OpenAI, thread: Json) -> None:
    pages = client.beta.threads.messages.list(thread["id"], limit=3, order="asc")

    assert [message.content[0].text.value for message in pages] == list("0123456789")  # type: ignore[union-attr]


async def test_case_30_through_the_official_asynchronous_client(async_client: openai.AsyncOpenAI, thread: Json) -> None:
    pages = async_client.beta.threads.messages.list(thread["id"], limit=3)

    assert [message.content[0].text.value async for message in pages] == list("9876543210")  # type: ignore[union-attr]


def test_assistants_are_paged_by_the_official_client_newest_first(client: openai.OpenAI, http: Http) -> None:
    made = [http.assistant()["id"] for _ in range(7)]

    found = []
    for assistant in client.beta.assistants.list(limit=3):
        found.append(assistant.id)
        if len(found) == 7:
            break

    assert found == made[::-1]


def test_case_88_steps_and_runs_are_listed_newest_first_and_paged(http: Http) -> None:
    run = http.finish("[[text=a tool=nope:{}]] [[text=b tool=nope:{}]] [[text=c]]")
    path = f"{path_of(run)}/steps"

    steps = http.get(path, order="asc")["data"]
    assert [step["type"] for step in steps] == ["message_creation", "tool_calls"] * 2 + ["message_creation"]
    assert http.get(path)["data"] == steps[::-1]
    page = http.get(path, limit=2, order="asc", after=steps[0]["id"])
    assert (page["data"], page["has_more"]) == (steps[1:3], True)
    page = http.get(path, limit=2, before=steps[4]["id"], order="asc")
    assert (page["data"], page["has_more"]) == (steps[2:4], True)
    assert http.get(f"{path}/{steps[0]['id']}") == steps[0]
    assert http.get(f"/threads/{run['thread_id']}/runs")["data"] == [run]


@pytest.mark.parametrize(
    ("order", "query", "expected", "more"),
    [
        ("asc", {"after": 3}, "456789", False),
        ("asc", {"before": 3}, "012", False),
        ("desc", {"after": 3}, "210", False),
        ("desc", {"before": 3}, "987654", False),
        ("asc", {"after": 3, "limit": 2}, "45", True),
        ("asc", {"before": 5, "limit": 2}, "34", True),
        ("desc", {"before": 5, "limit": 2}, "76", True),
        ("asc", {"after": 2, "before": 6}, "345", False),
        ("desc", {"after": 6, "before": 2}, "543", False),
        ("asc", {"after": 6, "before": 2}, "", False),
        ("asc", {"after": 9}, "", False),
        ("desc", {"after": 0}, "", False),
    ],
)
def test_case_124_cursors_are_exclusive_and_keep_the_order(
    http: Http, thread: Json, order: str, query: dict[str, int], expected: str, more: bool
) -> None:
    ids = [message["id"] for message in http.messages(thread["id"])]
    cursors = {key: value if key == "limit" else ids[value] for key, value in query.items()}

    page = http.get(f"/threads/{thread['id']}/messages", order=order, **cursors)

    assert (said(page), page["has_more"]) == (expected, more)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"limit": "0"}, "integer_below_min_value"),
        ({"limit": "101"}, "integer_above_max_value"),
        ({"limit": "ten"}, "invalid_type"),
        ({"limit": ""}, "invalid_type"),
        ({"order": "x"}, "invalid_value"),
        ({"after": "msg_unknown"}, "invalid_value"),
        ({"before": "\0"}, "invalid_value"),
        ({"page": "2"}, "unknown_parameter"),
    ],
)
def test_case_125_wrong_queries_are_refused(http: Http, thread: Json, query: Any, code: str) -> None:
    error = http.refused("GET", f"/threads/{thread['id']}/messages", **query)

    assert (error["param"], error["code"]) == (next(iter(query)), code)


def test_case_125_the_limit_says_what_it_expected(http: Http, thread: Json) -> None:
    path = f"/threads/{thread['id']}/messages"

    error = http.refused("GET", path, limit="101")

    assert (
        error["message"]
        == "Invalid 'limit': integer above maximum value. Expected a value <= 100, but got 101 instead."
    )
    assert len(http.get(path, limit=100)["data"]) == 10


def test_case_126_an_empty_page_has_no_ids(http: Http) -> None:
    page = http.get(f"/threads/{http.thread()['id']}/messages")

    assert page == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


def test_models_are_listed_and_a_missing_one_is_named(http: Http, client: openai.OpenAI) -> None:
    assert "gpt-4o" in {model["id"] for model in http.get("/models")["data"]}
    assert client.models.retrieve("gpt-4o").object == "model"

    error = http.refused("GET", "/models/none", status=404)

    assert error["message"] == "The model 'none' does not exist"
    assert (error["param"], error["code"]) == ("model", "model_not_found")
