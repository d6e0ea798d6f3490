"""The API's own description: complete, and readable without any other host."""

import json
import re

import httpx2
import pytest

from orchestrator.wire.schemas import ANSWERS
from tests.api.checks import Json
from tests.stack import Stack

OPERATIONS = 39
STATUSES = {"200", "400", "401", "404", "413", "500", "503"}
PASSED_ON = {"createChatCompletion", "createEmbedding"}
"""Whose statuses are the model server's."""
HEADERS = {"x-request-id", "openai-processing-ms", "openai-version"}


@pytest.fixture(scope="module")
def address(stack: Stack) -> str:
    return stack.base_url.removesuffix("/v1")


@pytest.fixture(scope="module")
def document(address: str) -> Json:
    """Who asks first waits for its making."""
    return httpx2.get(f"{address}/openapi.json", timeout=60).json()


def test_the_document_describes_every_operation_with_its_answers(document: Json) -> None:
    operations = {
        operation["operationId"]: operation
        for path, methods in document["paths"].items()
        if path.startswith("/v1/")
        for operation in methods.values()
    }
    assert len(operations) == OPERATIONS
    for name, operation in operations.items():
        assert operation["summary"], name
        assert operation["description"], name
        assert set(operation["responses"]) >= STATUSES, name
        assert "422" not in operation["responses"], name
        assert name in PASSED_ON or all(status.isdigit() for status in operation["responses"]), name
        assert operation["responses"]["200"]["content"], name
        assert set(operation["responses"]["200"]["headers"]) >= HEADERS, name
        assert operation["security"] == [{"HTTPBearer": []}], name


def test_whatever_the_document_refers_to_is_in_it(document: Json) -> None:
    schemas = document["components"]["schemas"]

    referred = set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(document)))
    assert {f"#/components/schemas/{name}" for name in schemas} >= referred > set()
    assert {answer.__name__.replace("[", "_").replace("]", "_") for answer in ANSWERS} <= set(schemas)


def test_an_operation_that_streams_says_so_beside_its_object(document: Json) -> None:
    streaming = {
        operation["operationId"]: operation["responses"]["200"]["content"]
        for methods in document["paths"].values()
        for operation in methods.values()
        if "text/event-stream" in operation["responses"]["200"]["content"]
    }

    assert {"createThreadAndRun", "createRun", "submitToolOuputsToRun", "followRun"} <= set(streaming)
    assert set(streaming["createRun"]) == {"application/json", "text/event-stream"}
    event = streaming["createRun"]["text/event-stream"]["itemSchema"]["properties"]["event"]
    assert len(event["enum"]) == 25  # the official clients' 24, and `done`
    assert {"thread.created", "thread.message.delta", "error", "done"} <= set(event["enum"])
    assert all("itemSchema" in content["text/event-stream"] for content in streaming.values())


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("OPTIONS", "/v1/assistants", "GET, POST"),
        ("PUT", "/v1/threads/thread_x", "DELETE, GET, POST"),
        ("DELETE", "/v1/threads/thread_x/runs/run_x", "GET, POST"),
        ("POST", "/v1/models", "GET"),
        ("POST", "/healthz", "GET"),
    ],
)
def test_a_refused_method_is_told_all_that_the_path_takes(address: str, method: str, path: str, allowed: str) -> None:
    answer = httpx2.request(method, f"{address}{path}")

    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_the_documentation_page_loads_nothing_from_elsewhere(address: str) -> None:
    page = httpx2.get(f"{address}/docs")

    assert page.status_code == 200
    assert "://" not in page.text.replace(address, "")
    for line in page.text.splitlines():
        if "static-offline-docs" in line:
            path = line.split('"')[1 if "src=" in line else -2]
            assert httpx2.get(f"{address}{path}").status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_needs_no_key(address: str, path: str) -> None:
    answer = httpx2.get(f"{address}{path}")

    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
