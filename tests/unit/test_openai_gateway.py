"""What the client of a request that was passed on is told when the model server refuses it."""

import pytest

from orchestrator.errors import Relayed, Unavailable
from orchestrator.openai_errors import UpstreamTrouble
from orchestrator.openai_gateway import FAILED, REFUSED_US, UNCLEAR, refusal, relayed_headers

HIDDEN = ["model.inside:8000"]


def trouble(status: int | None, headers: dict[str, str] | None = None, **error: str | None) -> UpstreamTrouble:
    return UpstreamTrouble("status", status=status, error=error, headers=headers)


@pytest.mark.parametrize("status", [None, 200, 302])
def test_who_does_not_answer_is_away(status: int | None) -> None:
    assert isinstance(refusal(trouble(status), "m", HIDDEN), Unavailable)


@pytest.mark.parametrize(
    ("found", "status", "message", "type_", "code"),
    [
        (trouble(400, message="Too long", code="x", type="invalid_request_error"), 400, "Too long", None, "x"),
        (trouble(400), 400, UNCLEAR, None, None),
        (trouble(413, message="at model.inside:8000"), 413, "at [hidden]", None, None),
        (trouble(404, message="no 'm' here"), 404, "The model 'm' does not exist.", None, "model_not_found"),
        (trouble(404, message="Not Found"), 404, "Not Found", None, None),
        (trouble(429, message="Slow", type="requests"), 429, "Slow", "requests", None),
        (trouble(401, message="sk-upstream"), 503, REFUSED_US, "server_error", None),
        (trouble(403, message="secret"), 503, REFUSED_US, "server_error", None),
        (trouble(500, message="secret", code="secret"), 500, FAILED, "server_error", None),
        (trouble(529, message="secret"), 529, FAILED, "server_error", None),
    ],
)
def test_the_upstreams_refusal_is_told_where_it_is_the_clients_business(
    found: UpstreamTrouble, status: int, message: str, type_: str | None, code: str | None
) -> None:
    error = refusal(found, "m", HIDDEN)

    assert isinstance(error, Relayed)
    assert (error.status, error.message, error.code) == (status, message, code)
    assert error.type == (type_ or "invalid_request_error")


def test_advice_about_trying_again_is_passed_on() -> None:
    advice = {"retry-after": "7", "retry-after-ms": "7000", "x-should-retry": "true"}

    error = refusal(trouble(429, {**advice, "server": "secret"}), "m", HIDDEN)

    assert isinstance(error, Relayed)
    assert error.headers == advice


def test_of_the_answers_headers_only_the_limits_are_passed_on() -> None:
    headers = {"X-RateLimit-Limit-Tokens": "5", "Server": "secret", "Set-Cookie": "secret"}

    assert relayed_headers(headers) == {"x-ratelimit-limit-tokens": "5"}
