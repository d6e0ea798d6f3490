"""The API's own description: complete, and readable without any other host."""

import httpx2
import pytest

from tests.stack import Stack

OPERATIONS = 26


@pytest.fixture
def address(stack: Stack) -> str:
    return stack.base_url.removesuffix("/v1")


def test_the_document_describes_every_operation_with_its_answers(address: str) -> None:
    document = httpx2.get(f"{address}/openapi.json").json()

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
        assert set(operation["responses"]) == {"200", "4XX", "5XX"}, name
        assert operation["responses"]["200"]["content"], name
        assert operation["security"] == [{"HTTPBearer": []}], name


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
