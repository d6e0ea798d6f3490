"""Whatever is wrong, in every operation's path, query and body: the envelope with 4xx, and nothing half-written.

Operations come from the application's own OpenAPI document, so a new one is met here the day it is added. Cases 23 and
24 are in the hook of the client: it fails on any other error than an envelope with 4xx.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from api.app import create_app
from orchestrator.settings import Settings
from tests.api.checks import Json
from tests.api.http import CALL, WEATHER, Http

NOWHERE = {"DATABASE_URL": "postgresql://nowhere", "REDIS_URL": "redis://nowhere"}
DOCUMENT = create_app(Settings.model_validate(NOWHERE)).openapi()
OPERATIONS = {
    operation["operationId"]: (method.upper(), path.removeprefix("/v1"), operation)
    for path, methods in DOCUMENT["paths"].items()
    if path.startswith("/v1/")
    for method, operation in methods.items()
}
WITH_BODY = [
    name
    for name, (_, _, operation) in OPERATIONS.items()
    if "application/json" in operation.get("requestBody", {}).get("content", {})
]
WITH_ID = [name for name, (_, path, _) in OPERATIONS.items() if "_id}" in path]

STRANGE_IDS = (
    *("x", "wrong_prefix", "%00", "a%00b", "%ED%A0%80", "%FF", "%F0%9F%92%A9", "..%2F..%2Fetc", "%0A%0D", "'", "%25s"),
    *("1" * 4000, "%5Bobject%20Object%5D", "null", "%20"),
)
NO_JSON = (b"{", b"[1", b"{'a': 1}", b'{"a": \xff}', b"\x00", b'{"a": NaN}', b"model=x", b"[" * 5000, b'{"a":1}}')
NO_OBJECT: tuple[Json, ...] = ([], "text", 7, True, [{}])
STRANGE: tuple[Json, ...] = (
    "a\0b",
    "\ud800",
    10**30,
    -1,
    1.5,
    True,
    [],
    {},
    [[]],
    {"type": 7},
    [{"type": 7}],
    "x" * 300_000,
)


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    """The ids of real objects, once there are any."""
    return {}


@pytest.fixture(scope="module")
def states() -> list[Json]:
    """What was last seen of them."""
    return []


@pytest.fixture
def ids(http: Http, made: dict[str, str], states: list[Json]) -> Iterator[dict[str, str]]:
    """A thread with a run that waits for outputs: what could be damaged, and afterwards is not."""
    if not made:
        run = http.ask_for_outputs(CALL)
        made["run_id"], made["thread_id"], made["assistant_id"] = run["id"], run["thread_id"], run["assistant_id"]
        made["message_id"], made["step_id"] = http.messages(run["thread_id"])[0]["id"], http.steps(run)[0]["id"]
        wanted = {"bytes": 3, "filename": "a.txt", "mime_type": "text/plain", "purpose": "assistants"}
        made["upload_id"] = http.post("/uploads", wanted)["id"]
        sent = http.client.post("/files", data={"purpose": "assistants"}, files={"file": ("a.txt", b"abc")})
        made["file_id"] = sent.json()["id"]
        states.append(state(http, made))
    yield made
    states.append(state(http, made))
    assert states[-1] == states[-2]


def state(http: Http, ids: dict[str, str]) -> Json:
    run = http.get(f"/threads/{ids['thread_id']}/runs/{ids['run_id']}")
    of_thread = [http.get(f"/threads/{ids['thread_id']}{below}") for below in ("", "/messages", "/runs")]
    newest = http.get("/assistants", limit=1)
    alone = [http.get(f"/assistants/{ids['assistant_id']}"), http.get(f"/files/{ids['file_id']}")]
    return [run, *of_thread, http.steps(run), *alone, newest]


def send(http: Http, name: str, ids: dict[str, str], content: bytes | Json, **query: Any) -> None:
    """Send what must be refused. (The hook checks that it was refused well.)"""
    method, path, _ = OPERATIONS[name]
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    response = http.client.request(method, path.format(**ids), content=raw, params=query)
    assert 400 <= response.status_code < 500, (name, raw[:100], response.text[:300])


def test_the_document_served_is_the_one_that_these_tests_know(http: Http) -> None:
    served = http.client.get(str(http.client.base_url).removesuffix("/v1/") + "/openapi.json").json()

    assert served["paths"].keys() == DOCUMENT["paths"].keys()
    assert len(WITH_BODY) > 8
    assert len(WITH_ID) > 15


@pytest.mark.parametrize("name", WITH_BODY)
def test_what_is_no_json_object_is_refused(http: Http, ids: dict[str, str], name: str) -> None:
    for content in (*NO_JSON, *NO_OBJECT):
        send(http, name, ids, content)


@pytest.mark.parametrize("name", WITH_BODY)
def test_unknown_fields_are_refused(http: Http, ids: dict[str, str], name: str) -> None:
    for field in ("foo", "", "\ud800", "a\0b", "id", "__proto__", "x" * 5000):
        send(http, name, ids, {**valid(name, ids), field: 1})
    send(http, name, ids, {**valid(name, ids), **{str(n): n for n in range(10_000)}})


@pytest.mark.parametrize("name", WITH_BODY)
def test_strange_values_are_refused_in_every_field(http: Http, ids: dict[str, str], name: str) -> None:
    for field, schema in properties(name).items():
        for value in STRANGE:
            if not acceptable(schema, field, value):
                send(http, name, ids, {**valid(name, ids), field: value})


@pytest.mark.parametrize("name", WITH_BODY)
def test_bodies_of_ten_megabytes_are_refused(http: Http, ids: dict[str, str], name: str) -> None:
    flood = "x" * 10_000_000
    send(http, name, ids, {**valid(name, ids), "metadata": {"k": flood}, "tool_outputs": flood})
    send(http, name, ids, b'{"foo": "' + flood.encode() + b'"}')
    send(http, name, ids, flood.encode() * 2)  # beyond the limit: 413


@pytest.mark.parametrize("name", WITH_ID)
def test_strange_ids_are_refused_or_not_found(http: Http, ids: dict[str, str], name: str) -> None:
    method, path, operation = OPERATIONS[name]
    for parameter in operation["parameters"]:
        for strange in STRANGE_IDS if parameter["in"] == "path" else ():
            content = json.dumps(valid(name, ids)) if name in WITH_BODY else None
            response = http.client.request(method, path.format(**{**ids, parameter["name"]: strange}), content=content)
            assert response.status_code in (400, 404), (name, strange, response.text)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name.startswith("list") and name != "listModels"])
def test_strange_queries_are_refused(http: Http, ids: dict[str, str], name: str) -> None:
    strange: list[Json] = [
        *[{"limit": value} for value in ("0", "-1", "10001", "1e1", "1.0", " 1", "\0", "x", "9" * 5000, "١")],
        *[{"after": value} for value in ("x", "\0", "a\0b", "💩", "x" * 4000, "%s")],
        *[{"order": value} for value in ("", "ASC", "\0")],
        *({"before": "\0"}, {"foo": "1"}, {"": "1"}, {"limit": ["1", "2", "x"]}),
    ]
    for query in strange:
        send(http, name, ids, b"", **query)


def test_one_bad_message_leaves_the_thread_without_any(http: Http) -> None:
    run = http.finish("Hi")
    before = http.messages(run["thread_id"])
    good, bad = {"role": "user", "content": "good"}, {"role": "user", "content": "b\0d"}

    for messages in ([good, bad], [good] * 33, [good, {"role": "user", "content": []}]):
        body = {"assistant_id": run["assistant_id"], "additional_messages": messages}
        http.refused("POST", f"/threads/{run['thread_id']}/runs", body)
        http.refused("POST", "/threads", {"messages": messages})

    assert http.messages(run["thread_id"]) == before
    assert http.get(f"/threads/{run['thread_id']}/runs")["data"] == [run]


def test_a_run_with_an_unknown_assistant_leaves_no_thread_locked(http: Http) -> None:
    thread = http.thread("Hi")
    runs = f"/threads/{thread['id']}/runs"

    http.refused("POST", runs, {"assistant_id": "asst_none"}, status=404)

    assert http.get(runs)["data"] == []
    http.wait(http.post(runs, {"assistant_id": http.assistant()["id"]}))


def properties(name: str) -> Json:
    """The fields of an operation's body."""
    schema = OPERATIONS[name][2]["requestBody"]["content"]["application/json"]["schema"]
    found = next(option for option in (schema, *schema.get("anyOf", ())) if "$ref" in option)
    return DOCUMENT["components"]["schemas"][found["$ref"].rpartition("/")[2]]["properties"]


def valid(name: str, ids: dict[str, str]) -> Json:
    """The required fields of an operation's body, rightly filled. Every one is refused for another reason, though:
    the thread is locked."""
    fields: Json = {
        "createAssistant": {"model": "gpt-4o"},
        "createMessage": {"role": "user", "content": "Hi"},
        "createRun": {"assistant_id": ids["assistant_id"], "tools": [WEATHER]},
        "createThreadAndRun": {"assistant_id": ids["assistant_id"]},
        "submitToolOuputsToRun": {"tool_outputs": []},
        "completeUpload": {"part_ids": []},
    }
    return fields.get(name, {})


def acceptable(schema: Json, field: str, value: Json) -> bool:
    """Whether the value is a right one for this field."""
    options = schema.get("anyOf", [schema])
    kinds = {option.get("type") for option in options}
    if isinstance(value, bool):
        return "boolean" in kinds
    if isinstance(value, list):
        return "array" in kinds and value == []
    if isinstance(value, dict):
        return value == {} and (field in ("metadata", "thread", "tool_resources"))
    if isinstance(value, float):
        return "number" in kinds and field == "temperature"
    return False
