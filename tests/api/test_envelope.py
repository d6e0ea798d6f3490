"""Who may speak, what is not found, what surrounds every answer; and errors that come after a stream has begun."""

from collections.abc import AsyncGenerator
from typing import Any

import httpx2
import openai
import pytest
from fastapi import FastAPI, Response

from api.leaving import Leaving
from api.sse import Streams
from orchestrator import projects
from orchestrator.db import Session, engine
from orchestrator.events.follower import Follower
from orchestrator.events.frames import START, Cursor
from orchestrator.events.listener import Outlet
from tests.api.http import Http, path_of
from tests.stack import API_KEY, Stack

OTHER_KEY = "sk-asst-other-0123456789abcdef"


def test_case_21_unknown_ids_are_not_found_in_the_originals_words(http: Http) -> None:
    run = http.finish("Hi")
    thread = f"/threads/{run['thread_id']}"
    looked_up = {
        "assistant": ("/assistants/asst_none", "asst_none"),
        "thread": ("/threads/thread_none", "thread_none"),
        "message": (f"{thread}/messages/msg_none", "msg_none"),
        "run": (f"{thread}/runs/run_none", "run_none"),
    }

    for noun, (path, id_) in looked_up.items():
        for method, body in (("GET", None), ("POST", {})):
            error = http.refused(method, path, body, status=404)
            assert error["message"] == f"No {noun} found with id '{id_}'."
            assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, None)
    for below in ("steps", "steps/step_none", "events"):
        error = http.refused("GET", f"{thread}/runs/run_none/{below}", status=404)
        assert error["message"] == "No run found with id 'run_none'."
    assert http.refused("GET", f"{path_of(run)}/steps/step_none", status=404)["message"].endswith("'step_none'.")


def test_case_23_every_error_is_an_envelope_of_four_keys(http: Http) -> None:
    wrong: list[tuple[int, str, str, dict[str, Any]]] = [
        (400, "POST", "/assistants", {"content": b"{"}),
        (400, "POST", "/assistants", {"json": {"model": "m", "foo": 1}}),
        (400, "GET", "/assistants?limit=0", {}),
        (400, "GET", "/assistants/x", {}),
        (401, "GET", "/assistants", {"headers": {"Authorization": "Bearer sk-wrong"}}),
        (404, "GET", "/assistants/asst_none", {}),
        (404, "GET", "/nowhere", {}),
        (405, "PUT", "/assistants", {}),
        (413, "POST", "/threads", {"json": {"metadata": {"k": "x" * 20_000_000}}}),
    ]

    for status, method, path, sent in wrong:
        response = http.client.request(method, path, **sent)
        assert response.status_code == status, path
        assert response.json().keys() == {"error"}
        assert response.json()["error"].keys() == {"message", "type", "param", "code"}


def test_case_24_validation_is_never_a_422(http: Http) -> None:
    thread = f"/threads/{http.thread()['id']}"
    wrong: dict[str, Any] = {
        "/assistants": {},
        "/threads": {"messages": [{"role": "user"}]},
        f"{thread}/messages": {"role": 7, "content": []},
        f"{thread}/runs": {"assistant_id": None},
        f"{thread}/runs/run_none/submit_tool_outputs": {"tool_outputs": "x"},
    }

    for path, body in wrong.items():
        assert http.refused("POST", path, body, status=400)["code"] in (
            *("missing_required_parameter", "invalid_type", "invalid_value", "empty_array"),
        )


def test_case_24_a_wrong_body_is_a_bad_request_for_the_official_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.beta.assistants.create(model=7)  # type: ignore[arg-type]

    assert caught.value.status_code == 400
    assert (caught.value.param, caught.value.code, caught.value.type) == (
        "model",
        "invalid_type",
        "invalid_request_error",
    )


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Basic eDp5", API_KEY])
def test_case_25_without_a_key_nothing_is_told(http: Http, authorization: str | None) -> None:
    del http.client.headers["Authorization"]
    headers = {} if authorization is None else {"Authorization": authorization}

    response = http.client.get("/assistants", headers=headers)

    assert response.status_code == 401
    assert response.json()["error"]["message"].startswith("You didn't provide an API key.")
    assert response.json()["error"]["code"] is None


def test_case_25_a_wrong_key_is_shown_masked(stack: Stack) -> None:
    wrong = "sk-proj-very-secret-key-of-somebody"

    with (
        openai.OpenAI(base_url=stack.base_url, api_key=wrong, max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.beta.threads.create()

    assert caught.value.code == "invalid_api_key"
    assert "Incorrect API key provided: sk-********body." in caught.value.message
    assert "secret" not in caught.value.message


def test_case_129_every_answer_carries_the_same_headers(http: Http) -> None:
    answers = [
        http.client.get("/models"),
        http.client.get("/assistants/x"),
        http.client.post("/threads", headers={"x-request-id": "mine"}),
        http.client.get("/nowhere"),
        http.client.put("/threads"),
    ]

    assert [answer.status_code for answer in answers] == [200, 400, 200, 404, 405]  # checks.py looks at the headers
    assert answers[2].headers["x-request-id"] == "mine"
    assert len({answer.headers["x-request-id"] for answer in answers}) == 5
    assert all(answer.headers["openai-version"] == "2020-10-01" for answer in answers)


async def test_case_160_projects_do_not_see_each_others_objects(http: Http, stack: Stack) -> None:
    own = engine(stack.settings)
    async with Session(own) as session, session.begin():
        await projects.register(session, OTHER_KEY, "other")
    await own.dispose()
    run = http.ask_for_outputs()
    (message,), (step,) = http.messages(run["thread_id"]), http.steps(run)
    paths = {
        f"/assistants/{run['assistant_id']}": "assistant",
        f"/threads/{run['thread_id']}": "thread",
        f"/threads/{run['thread_id']}/messages/{message['id']}": "thread",
        path_of(run): "thread",
        f"{path_of(run)}/steps/{step['id']}": "thread",
        f"{path_of(run)}/events": "thread",
    }

    other = Http(stack.base_url, OTHER_KEY)
    with other.client:
        for path, noun in paths.items():
            error = other.refused("GET", path, status=404)
            assert error["message"].startswith(f"No {noun} found with id '")
        other.refused("POST", f"{path_of(run)}/cancel", status=404)
        other.refused("DELETE", f"/threads/{run['thread_id']}", status=404)
        own_thread = other.thread("Hi")
        body = {"assistant_id": run["assistant_id"]}
        other.refused("POST", f"/threads/{own_thread['id']}/runs", body, status=404)
        assert other.get("/assistants")["data"] == []
        after = {"after": run["assistant_id"]}
        assert other.refused("GET", "/assistants", **after)["code"] == "invalid_value"

    assert http.get(path_of(run)) == run


class Breaking(Follower):
    """Follows until it breaks."""

    def __init__(self) -> None:
        """Nothing is needed."""

    async def follow(
        self, run_id: str, after: Cursor, answered: str | None = None, outlet: Outlet | None = None
    ) -> AsyncGenerator[bytes, None]:
        yield b'event: thread.run.queued\ndata: {"id":"run_1","object":"thread.run","status":"queued"}\n\n'
        raise ZeroDivisionError("broken")


async def test_case_59_an_error_within_a_stream_is_raised_by_the_official_client() -> None:
    app = FastAPI()

    @app.post("/threads/{thread_id}/runs")
    async def create(thread_id: str) -> Response:
        return Streams(Breaking(), Leaving()).of("thread_1", "run_1", START)

    http_client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app))
    async with openai.AsyncOpenAI(base_url="http://server", api_key="x", http_client=http_client) as client:
        events = await client.beta.threads.runs.create("thread_1", assistant_id="asst_1", stream=True)
        first = await anext(events)
        with pytest.raises(openai.APIError, match="The event stream was interrupted") as caught:
            await anext(events)

    assert first.event == "thread.run.queued"
    assert caught.value.type == "server_error"
