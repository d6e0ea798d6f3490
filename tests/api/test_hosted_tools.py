"""Tools that the server will run itself: what is wrong with them is told before that they are not there yet."""

import pytest

from tests.api.checks import Json
from tests.api.http import Http

FILES = [f"file-{number:022}" for number in range(21)]
STORES = [f"vs_{number:032}" for number in range(2)]


@pytest.mark.parametrize(
    ("options", "field", "code"),
    [
        ({"max_num_results": 0}, "max_num_results", "integer_below_min_value"),
        ({"max_num_results": 51}, "max_num_results", "integer_above_max_value"),
        (
            {"ranking_options": {"score_threshold": -0.1}},
            "ranking_options.score_threshold",
            "decimal_below_min_value",
        ),
        ({"ranking_options": {"score_threshold": 1.1}}, "ranking_options.score_threshold", "decimal_above_max_value"),
        ({"ranking_options": {}}, "ranking_options.score_threshold", "missing_required_parameter"),
        ({"ranking_options": {"score_threshold": 0.5, "ranker": "x"}}, "ranking_options.ranker", "invalid_value"),
        ({"ranking_options": {"score_threshold": 0.5, "foo": 1}}, "ranking_options.foo", "unknown_parameter"),
    ],
)
def test_case_99_the_options_of_file_search_are_bounded(http: Http, options: Json, field: str, code: str) -> None:
    tools = [{"type": "file_search", "file_search": options}]
    assistant = http.assistant()["id"]

    refused = [
        http.refused("POST", "/assistants", {"model": "m", "tools": tools}),
        http.refused("POST", f"/assistants/{assistant}", {"tools": tools}),
        http.refused("POST", f"/threads/{http.thread()['id']}/runs", {"assistant_id": assistant, "tools": tools}),
        http.refused("POST", "/threads/runs", {"assistant_id": assistant, "tools": tools}),
    ]

    assert {(error["param"], error["code"]) for error in refused} == {(f"tools[0].file_search.{field}", code)}


@pytest.mark.parametrize(
    ("search", "below", "code"),
    [
        ({"vector_store_ids": STORES}, ".vector_store_ids", "array_above_max_length"),
        ({"vector_stores": [{}, {}]}, ".vector_stores", "array_above_max_length"),
        ({"vector_store_ids": STORES[:1], "vector_stores": [{}]}, "", "invalid_value"),
    ],
)
def test_case_102_there_is_one_store_at_most_and_not_both_an_old_and_a_new_one(
    http: Http, search: Json, below: str, code: str
) -> None:
    resources = {"file_search": search}

    for path, needed in (("/assistants", {"model": "m"}), ("/threads", {})):
        error = http.refused("POST", path, {**needed, "tool_resources": resources})
        assert (error["param"], error["code"]) == (f"tool_resources.file_search{below}", code)
    body: Json = {"assistant_id": http.assistant()["id"], "thread": {"tool_resources": resources}}
    error = http.refused("POST", "/threads/runs", body)
    assert (error["param"], error["code"]) == (f"thread.tool_resources.file_search{below}", code)


def test_case_103_the_interpreter_takes_twenty_files_at_most(http: Http) -> None:
    resources = {"code_interpreter": {"file_ids": FILES}}
    assistant, thread = http.assistant()["id"], http.thread()["id"]
    bodies: dict[str, Json] = {
        "/assistants": {"model": "m"},
        f"/assistants/{assistant}": {},
        "/threads": {},
        f"/threads/{thread}": {},
        "/threads/runs": {"assistant_id": assistant},
    }

    for path, body in bodies.items():
        error = http.refused("POST", path, {**body, "tool_resources": resources})
        assert error["param"] == "tool_resources.code_interpreter.file_ids"
        assert error["code"] == "array_above_max_length"
