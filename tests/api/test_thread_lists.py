"""`GET /v1/threads`: an extension of the original, which could not tell which threads there are."""

import secrets

import pytest

from tests.api.checks import Json
from tests.api.http import Http


@pytest.fixture
def mark() -> dict[str, str]:
    """Metadata that no other test's threads have."""
    return {"test": secrets.token_hex(8)}


def marked(http: Http, mark: dict[str, str], count: int, **more: str) -> list[Json]:
    return [http.post("/threads", {"metadata": {**mark, "place": str(place), **more}}) for place in range(count)]


def by(**metadata: str) -> dict[str, str]:
    return {f"metadata[{key}]": value for key, value in metadata.items()}


def places(page: Json) -> list[str]:
    return [thread["metadata"]["place"] for thread in page["data"]]


def test_the_newest_threads_come_first(http: Http, mark: dict[str, str]) -> None:
    made = marked(http, mark, 3)

    newest = http.get("/threads", limit=3)["data"]

    assert [thread["id"] for thread in newest] == [thread["id"] for thread in reversed(made)]
    assert newest[0] == http.get(f"/threads/{made[-1]['id']}")


def test_threads_are_found_by_their_metadata_all_pairs_of_it(http: Http, mark: dict[str, str]) -> None:
    marked(http, mark, 3, colour="red")
    marked(http, mark, 2, colour="blue")

    assert len(http.get("/threads", **by(**mark))["data"]) == 5
    assert len(http.get("/threads", **by(**mark, colour="red"))["data"]) == 3
    assert places(http.get("/threads", **by(**mark, colour="blue", place="1"))) == ["1"]
    nobody = http.get("/threads", **by(**mark, colour="green"))
    assert nobody == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


def test_found_threads_come_in_pages_like_all_lists(http: Http, mark: dict[str, str]) -> None:
    marked(http, mark, 5)

    first = http.get("/threads", limit=2, order="asc", **by(**mark))
    second = http.get("/threads", limit=2, order="asc", after=first["last_id"], **by(**mark))
    third = http.get("/threads", limit=2, order="asc", after=second["last_id"], **by(**mark))
    back = http.get("/threads", limit=2, order="asc", before=second["first_id"], **by(**mark))

    assert [places(page) for page in (first, second, third)] == [["0", "1"], ["2", "3"], ["4"]]
    assert [page["has_more"] for page in (first, second, third)] == [True, True, False]
    assert back["data"] == first["data"]


@pytest.mark.parametrize(("key", "value"), [("ключ", "значение"), ("a[b]", "c=d&e"), ("", "empty"), ("x", "")])
def test_any_key_and_value_can_be_asked_for(http: Http, mark: dict[str, str], key: str, value: str) -> None:
    made = http.post("/threads", {"metadata": {**mark, key: value}})

    found = http.get("/threads", **by(**mark), **{f"metadata[{key}]": value})["data"]

    assert [thread["id"] for thread in found] == [made["id"]]


def test_values_are_texts_and_nothing_else(http: Http, mark: dict[str, str]) -> None:
    http.post("/threads", {"metadata": {**mark, "n": "1"}})

    assert len(http.get("/threads", **by(**mark, n="1"))["data"]) == 1
    assert http.get("/threads", **by(**mark, n="1.0"))["data"] == []


@pytest.mark.parametrize(
    ("query", "param", "message"),
    [
        ({"limit": "0"}, "limit", "Invalid 'limit': integer below minimum value. Expected a value >= 1, but got 0"),
        ({"metadate[k]": "v"}, "metadate[k]", "Unknown parameter: 'metadate[k]'."),
        ({"metadata": "v"}, "metadata", "Invalid type for 'metadata': expected an object, but got a string instead."),
        ({"metadata.k": "v"}, "metadata.k", "Unknown parameter: 'metadata.k'."),
        ({"order": "up"}, "order", "Invalid value: 'up'. Supported values are: 'asc' and 'desc'."),
        ({"after": "thread_none"}, "after", "Invalid 'after': no object with id 'thread_none' in this list."),
        ({"metadata[k]": "v" * 513}, "metadata.k", "Invalid 'metadata.k': string too long."),
        ({"metadata[k]": ["v", "w"]}, "metadata.k", "Invalid type for 'metadata.k': expected a string, but got an"),
        ({f"metadata[{n}]": "v" for n in range(17)}, "metadata", "Invalid 'metadata'"),
    ],
)
def test_other_queries_are_refused(http: Http, query: dict[str, str], param: str, message: str) -> None:
    error = http.refused("GET", "/threads", status=400, **query)

    assert error["message"].startswith(message), error["message"]
    assert error["param"] == param
