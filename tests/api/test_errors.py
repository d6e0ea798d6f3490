"""A small application with our error handlers and middleware: whatever is wrong gets the envelope and never a 500."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx2
import pytest
import structlog
from fastapi import APIRouter, FastAPI, Query
from fastapi.responses import StreamingResponse
from redis import exceptions as redis_errors
from sqlalchemy import exc as sql_errors

from api.context import RequestContext
from api.error_texts import NOT_JSON
from api.errors import RESPONSES, SERVER_ERROR, UNAVAILABLE, install
from api.limits import BodyLimit, JsonBodies
from orchestrator import ids
from orchestrator.errors import NotFound, Unauthenticated, Unavailable
from orchestrator.wire.requests import CreateAssistant, CreateRun, CreateThread, IncludeQuery, ListMessagesQuery

LIMIT = 1024 * 1024
LOST = sql_errors.DBAPIError("SELECT secret", {"content": "secret"}, Exception("secret"), connection_invalidated=True)
RAISED: dict[str, Exception] = {
    "missing": NotFound("run", "run_x"),
    "keyless": Unauthenticated("You didn't provide an API key."),
    "away": Unavailable("Not now."),
    "refused": ConnectionRefusedError("db:5432"),
    "redis": redis_errors.ConnectionError("redis:6379"),
    "lost": LOST,
    "pool": sql_errors.TimeoutError("pool"),
    "constraint": sql_errors.DBAPIError("INSERT secret", {"content": "secret"}, Exception("secret")),
    "bug": ZeroDivisionError("a bug"),
}


async def healthy() -> str:
    return "ok"


def make() -> FastAPI:
    app = FastAPI(strict_content_type=False)
    router = APIRouter(prefix="/v1", responses=RESPONSES)

    @router.post("/assistants")
    async def create_assistant(body: CreateAssistant) -> dict[str, Any]:
        return body.model_dump(exclude_unset=True)

    @router.post("/threads")
    async def create_thread(body: CreateThread | None = None) -> dict[str, Any]:
        return (body or CreateThread()).model_dump(exclude_unset=True)

    @router.get("/threads/{thread_id}/messages")
    async def list_messages(thread_id: str, query: Annotated[ListMessagesQuery, Query()]) -> dict[str, Any]:
        ids.check("thread_id", "thread_", thread_id)
        return query.model_dump()

    @router.post("/threads/{thread_id}/runs")
    async def create_run(thread_id: str, body: CreateRun, query: Annotated[IncludeQuery, Query()]) -> dict[str, Any]:
        return body.model_dump(exclude_unset=True)

    @router.get("/raise/{name}")
    async def fail(name: str) -> None:
        raise RAISED[name]

    @router.get("/breaks")
    async def breaks() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"one"
            raise ZeroDivisionError("in the middle")

        return StreamingResponse(parts())

    app.add_api_route("/healthz", healthy)
    app.include_router(router)
    install(app)
    app.add_middleware(JsonBodies)
    app.add_middleware(BodyLimit, limit=LIMIT)
    app.add_middleware(RequestContext)
    return app


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=make())
    async with httpx2.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client


def error_of(response: httpx2.Response, status: int) -> dict[str, Any]:
    """The error of a response that must be an envelope with all four keys and nothing else."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    return error


MALFORMED = {
    "nothing": b"",
    "cut off": b'{"model": "m"',
    "a form": b"model=m",
    "two documents": b"{}{}",
    "not UTF-8": b'{"model": "\xff\xfe"}',
    "too deep": b'{"model":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "a huge number": b'{"temperature": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
async def test_what_is_no_json_is_refused_with_400(client: httpx2.AsyncClient, body: bytes) -> None:
    response = await client.post("/v1/assistants", content=body, headers={"content-type": "application/json"})

    error = error_of(response, 400)
    assert error == {"message": NOT_JSON, "type": "invalid_request_error", "param": None, "code": None}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"[]", None),
        (b'"text"', None),
        (b"1", None),
        (b'{"model": "m", "temperature": NaN}', "temperature"),
        (b'{"model": "m", "temperature": 1e999}', "temperature"),
        (b'{"model": "m\\u0000"}', "model"),
        (b'{"model": "m", "metadata": {"k\\u0000": "v"}}', "metadata"),
        (b'{"model": "m", "name": "\\ud800"}', "name"),
        (b'{"model": "m", "metadata": {"\\ud800": "v"}}', "metadata"),
        (b'{"model": "m", "name": "\xed\xa0\x80"}', "name"),
        (b'{"model": "m", "model": 1}', "model"),
        (b'{"model": "m", "foo": ' + b"[" * 800 + b"]" * 800 + b"}", "foo"),
        (b'{"model": "m", "metadata": ' + b"[" * 800 + b"]" * 800 + b"}", "metadata"),
        (b'{"model": "m", "n\xc3\xa4me": 1}', "näme"),
    ],
)
async def test_json_that_is_no_good_body_is_refused_with_its_path(
    client: httpx2.AsyncClient, body: bytes, param: str | None
) -> None:
    assert error_of(await client.post("/v1/assistants", content=body), 400)["param"] == param


async def test_a_key_that_utf8_cannot_carry_is_refused(client: httpx2.AsyncClient) -> None:
    error_of(await client.post("/v1/assistants", content=b'{"model": "m", "\\ud800": 1}'), 400)
    error_of(await client.post("/v1/assistants", content=b'{"model": "m", "\\u0000": 1}'), 400)


@pytest.mark.parametrize(
    "kind", ["application/x-www-form-urlencoded", "text/plain", "application/json; charset=utf-8", ""]
)
async def test_json_is_read_whatever_it_is_called(client: httpx2.AsyncClient, kind: str) -> None:
    headers = {"content-type": kind} if kind else {}
    response = await client.post("/v1/assistants", content=b'{"model": "m"}', headers=headers)

    assert response.json() == {"model": "m"}


@pytest.mark.parametrize("headers", [{}, {"content-type": "application/json"}])
@pytest.mark.parametrize("body", [b"", b"{}", b"null"])
async def test_an_optional_body_may_be_empty(client: httpx2.AsyncClient, headers: dict[str, str], body: bytes) -> None:
    response = await client.post("/v1/threads", content=body, headers=headers)

    assert (response.status_code, response.json()) == (200, {})


async def test_the_paths_of_errors_are_those_of_the_document(client: httpx2.AsyncClient) -> None:
    tools = [{"type": "code_interpreter"}, {"type": "function", "function": {"name": "a b"}}]
    error = error_of(await client.post("/v1/assistants", json={"model": "m", "tools": tools}), 400)

    assert error["param"] == "tools[1].function.name"


@pytest.mark.parametrize(
    ("query", "param", "code"),
    [
        ("limit=101", "limit", "integer_above_max_value"),
        ("limit=0", "limit", "integer_below_min_value"),
        ("limit=x", "limit", "invalid_type"),
        ("limit=", "limit", "invalid_type"),
        ("order=up", "order", "invalid_value"),
        ("after=msg_%00", "after", "invalid_value"),
        ("foo=1", "foo", "unknown_parameter"),
    ],
)
async def test_a_wrong_query_is_refused(client: httpx2.AsyncClient, query: str, param: str, code: str) -> None:
    error = error_of(await client.get(f"/v1/threads/thread_1/messages?{query}"), 400)

    assert (error["param"], error["code"]) == (param, code)


async def test_a_good_query_is_read(client: httpx2.AsyncClient) -> None:
    response = await client.get("/v1/threads/thread_1/messages?limit=5&order=asc&after=msg_1&run_id=run_1")

    assert response.json() == {"limit": 5, "order": "asc", "after": "msg_1", "before": None, "run_id": "run_1"}


async def test_the_include_of_the_dotnet_client_is_taken(client: httpx2.AsyncClient) -> None:
    legal = "step_details.tool_calls%5B*%5D.file_search.results%5B*%5D.content"
    url = "/v1/threads/thread_1/runs"

    for name in ("include%5B%5D", "include"):
        good = await client.post(f"{url}?{name}={legal}", json={"assistant_id": "asst_1"})
        assert good.status_code == 200, good.text
    error_of(await client.post(f"{url}?include%5B%5D=x", json={"assistant_id": "asst_1"}), 400)


@pytest.mark.parametrize("wrong", ["thread_%00", "wf_1", "%ED%A0%80", "x" * 5_000])
async def test_a_wrong_id_in_the_path_is_refused(client: httpx2.AsyncClient, wrong: str) -> None:
    error = error_of(await client.get(f"/v1/threads/{wrong}/messages"), 400)

    assert (error["param"], error["code"]) == ("thread_id", "invalid_value")
    assert len(error["message"]) < 400


async def test_unknown_urls_and_methods_have_the_envelope(client: httpx2.AsyncClient) -> None:
    unknown = error_of(await client.post("/v1/foo"), 404)
    later = error_of(await client.get("/v1/vector_stores/vs_1"), 404)
    wrong = await client.delete("/v1/assistants")

    assert unknown["message"] == "Invalid URL (POST /v1/foo)"
    assert later["message"].endswith("Vector stores are not supported by this server yet.")
    assert error_of(wrong, 405)["message"] == "Not allowed to DELETE on /v1/assistants."
    assert wrong.headers["allow"] == "POST"


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_over_the_limit_is_refused_before_it_is_read(client: httpx2.AsyncClient, announced: bool) -> None:
    read = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(160):
            read += 65_536
            yield b" " * 65_536

    headers = {"content-length": str(10 * LIMIT)} if announced else {}
    error = error_of(await client.post("/v1/assistants", content=chunks(), headers=headers), 413)

    assert "at most 1048576 bytes" in error["message"]
    assert read <= LIMIT + 2 * 65_536


async def test_a_body_of_just_the_limit_is_read(client: httpx2.AsyncClient) -> None:
    body = b'{"model": "m"}'.ljust(LIMIT)

    assert (await client.post("/v1/assistants", content=body)).status_code == 200


@pytest.mark.parametrize(
    ("name", "status", "message", "type_"),
    [
        ("missing", 404, "No run found with id 'run_x'.", "invalid_request_error"),
        ("keyless", 401, "You didn't provide an API key.", "invalid_request_error"),
        ("away", 503, "Not now.", "server_error"),
        ("refused", 503, UNAVAILABLE, "server_error"),
        ("redis", 503, UNAVAILABLE, "server_error"),
        ("lost", 503, UNAVAILABLE, "server_error"),
        ("pool", 503, UNAVAILABLE, "server_error"),
        ("constraint", 500, SERVER_ERROR, "server_error"),
        ("bug", 500, SERVER_ERROR, "server_error"),
    ],
)
async def test_every_error_has_its_status_and_the_envelope(
    client: httpx2.AsyncClient, name: str, status: int, message: str, type_: str
) -> None:
    with structlog.testing.capture_logs() as lines:
        response = await client.get(f"/v1/raise/{name}")

    error = error_of(response, status)
    assert (error["message"], error["type"]) == (message, type_)
    assert (response.headers.get("retry-after") == "1") == (status == 503)
    assert response.headers["x-request-id"]
    assert "secret" not in json.dumps(lines, default=str)


async def test_an_answer_that_breaks_off_breaks_the_connection(client: httpx2.AsyncClient) -> None:
    with pytest.raises(ZeroDivisionError):
        await client.get("/v1/breaks")


async def test_every_answer_has_the_headers_of_the_original(client: httpx2.AsyncClient) -> None:
    for path in ("/v1/raise/missing", "/v1/raise/bug", "/v1/nowhere", "/v1/threads/thread_1/messages"):
        response = await client.get(path)
        assert response.headers["x-request-id"].startswith("req_")
        assert response.headers["openai-version"] == "2020-10-01"
        assert response.headers["openai-processing-ms"].isdigit()


async def test_a_sane_request_id_of_the_client_is_kept_and_another_is_replaced(client: httpx2.AsyncClient) -> None:
    kept = await client.get("/v1/nowhere", headers={"x-request-id": "trace-1:2.3"})
    replaced = [await client.get("/v1/nowhere", headers={"x-request-id": each}) for each in ("a b", "x" * 129, "")]

    assert kept.headers["x-request-id"] == "trace-1:2.3"
    assert all(each.headers["x-request-id"].startswith("req_") for each in replaced)


async def test_a_request_is_one_line_in_the_log_without_ids_query_or_body(client: httpx2.AsyncClient) -> None:
    with structlog.testing.capture_logs() as lines:
        await client.get("/v1/threads/thread_secret/messages?after=msg_secret")
        await client.post("/v1/secret", content=b"secret")

    seen = [{key: line[key] for key in ("event", "method", "route", "status")} for line in lines]
    assert seen == [
        {"event": "request_finished", "method": "GET", "route": "/v1/threads/{thread_id}/messages", "status": 200},
        {"event": "request_finished", "method": "POST", "route": "unknown", "status": 404},
    ]
    assert all(line["duration_ms"] >= 0 for line in lines)
    assert "secret" not in json.dumps(lines)


async def test_a_probe_that_finds_all_well_is_no_news(client: httpx2.AsyncClient) -> None:
    with structlog.testing.capture_logs() as lines:
        for path in ("/healthz", "/readyz"):
            await client.get(path)

    seen = [(line["status"], line["log_level"]) for line in lines]
    assert seen == [(200, "debug"), (404, "info")]


async def test_the_document_shows_the_envelope_and_no_inner_marks() -> None:
    document = json.dumps(make().openapi())

    assert "ErrorEnvelope" in document
    assert "\\u0000" not in document
