"""Headers: what every answer carries, what the log calls a request, and the version that clients may have to name."""

import json
import time
from collections.abc import Iterator

import pytest

from api.beta import MISSING, OUTDATED
from orchestrator import ids
from tests.api.http import CALL, WEATHER, Http, path_of
from tests.fakes.model_control import RemoteModelServer
from tests.stack import Stack

ALWAYS = ("x-request-id", "openai-version", "openai-processing-ms", "openai-organization")


@pytest.fixture(scope="module")
def strict_url(working: Stack) -> Iterator[str]:
    """An API process that wants to be told the version, and calls its organization by a name."""
    with working.api(ASSISTANTD_STRICT_BETA_HEADER="true", ASSISTANTD_ORGANIZATION="acme-7") as base_url:
        yield base_url


@pytest.fixture
def strict(strict_url: str, model: RemoteModelServer) -> Iterator[Http]:
    """Plain HTTP to it, without any version."""
    http = Http(strict_url)
    with http.client:
        yield http


def test_case_129_the_same_headers_are_on_objects_errors_streams_and_unknown_routes(http: Http) -> None:
    run = http.ask_for_outputs()
    body = {"assistant_id": run["assistant_id"], "thread": {"messages": [{"role": "user", "content": "Hi"}]}}
    client = http.client

    answers = [
        client.get(path_of(run)),
        client.get("/threads", params={"limit": 1}),
        client.post("/threads/runs", json={**body, "stream": True}),
        client.get(f"{path_of(run)}/events"),
        client.post("/threads", json={"x": 1}),
        client.post("/threads", content=b"{"),
        client.get("/threads/thread_none"),
        client.get("/models"),
    ]
    foreign = [client.get("/nowhere"), client.put("/threads"), client.get("/models", headers={"authorization": ""})]

    for answer in (*answers, *foreign):
        assert all(answer.headers[name] for name in ALWAYS), answer
        assert answer.headers["openai-organization"] == "assistantd"
        assert not [name for name in answer.headers if name.startswith("x-ratelimit")]
    projects = {answer.headers.get("openai-project") for answer in answers if answer.status_code != 400}
    assert len(projects) == 1
    assert str(projects.pop()).startswith("proj_")
    assert not any("openai-project" in answer.headers for answer in foreign)  # nobody looked at their key
    assert [answer.status_code for answer in foreign] == [404, 405, 401]


def test_case_129_what_is_no_json_is_answered_alike_on_every_route(http: Http) -> None:
    thread = http.post("/threads")["id"]
    http.post(f"/threads/{thread}/messages", {"role": "user", "content": "Hi"})  # the key is known from here on

    answers = [http.client.post(path, content=b"{") for path in ("/threads", f"/threads/{thread}/messages")]

    assert answers[0].content == answers[1].content
    assert answers[0].headers.keys() == answers[1].headers.keys()


def test_case_129_the_organization_has_the_name_that_it_was_given(strict: Http) -> None:
    assert strict.client.get("/models").headers["openai-organization"] == "acme-7"


@pytest.mark.parametrize(
    "path", ["/assistants", "/threads", "/threads/thread_x/runs/run_x", "/threads/thread_x/messages"]
)
def test_case_128_where_it_is_asked_for_the_version_must_be_named(strict: Http, path: str) -> None:
    error = strict.refused("GET", path)

    assert error == {"message": MISSING, "type": "invalid_request_error", "param": None, "code": "invalid_beta"}
    assert MISSING == (
        "You must provide the 'OpenAI-Beta' header to access the Assistants API. "
        "Please try again by setting the header 'OpenAI-Beta: assistants=v2'."
    )


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("assistants=v1", OUTDATED),
        ("agents=v1", MISSING),
        ("assistants=v3", MISSING),
        ("assistants=v2", None),
        ("agents=v1, assistants=v2", None),
        ("assistants=v1;assistants=v2", None),
    ],
)
def test_case_128_only_the_second_version_will_do(strict: Http, version: str, message: str | None) -> None:
    answer = strict.client.post("/threads", json={}, headers={"OpenAI-Beta": version})

    assert answer.status_code == (400 if message else 200)
    assert message is None or answer.json()["error"]["message"] == message


def test_case_128_nothing_else_needs_a_version_and_by_default_nothing_at_all(strict: Http, http: Http) -> None:
    assert strict.client.get("/models").status_code == 200
    assert "openai-beta" not in http.client.headers
    assert http.client.post("/threads").status_code == 200
    assert http.client.post("/threads", headers={"OpenAI-Beta": "assistants=v1"}).status_code == 200


def routes_of(stack: Stack, name: str) -> list[str]:
    """What the log says of the requests of this name."""
    lines = [line for log in stack.folder.glob("api-*.log") for line in log.read_text().splitlines() if name in line]
    return [json.loads(line)["route"] for line in lines if "request_finished" in line]


def test_the_log_names_the_whole_route_and_no_ids(http: Http, stack: Stack) -> None:
    name = ids.new("call_")
    run = http.start(CALL, tools=[WEATHER])
    asked = [("GET", path_of(run)), ("GET", "/threads"), ("GET", "/models/no/such"), ("GET", "/nowhere")]

    for method, path in asked:
        http.client.request(method, path, headers={"x-request-id": name})

    deadline = time.monotonic() + 60
    while len(routes := routes_of(stack, name)) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)  # a request is logged when its answer has been sent
    assert routes == [
        "/v1/threads/{thread_id}/runs/{run_id}",
        "/v1/threads",
        "/v1/models/{model:path}",
        "unknown",
    ]
