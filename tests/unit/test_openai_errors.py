"""What the client is told, what is tried again, and what nobody must see."""

from email.utils import formatdate
from time import time

import orjson
import pytest

from orchestrator.errors import SORRY
from orchestrator.openai_errors import UpstreamTrouble

QUOTA = (
    "You exceeded your current quota, please check your plan and billing details. "
    "For more information on this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors."
)


def answer(status: int, message: str = "Oh no", *, code: str | None = None, **headers: str) -> UpstreamTrouble:
    body = orjson.dumps({"error": {"message": message, "type": "t", "param": None, "code": code}})
    return UpstreamTrouble.from_answer(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    ("trouble", "code", "message"),
    [
        (answer(429, "Rate limit reached for gpt-4o"), "rate_limit_exceeded", "Rate limit reached for gpt-4o"),
        (answer(429, QUOTA, code="insufficient_quota"), "rate_limit_exceeded", QUOTA),
        (answer(429, ""), "rate_limit_exceeded", "Rate limit reached for gpt-4o."),
        (answer(400, "Too long", code="context_length_exceeded"), "invalid_prompt", "Too long"),
        (answer(400, "Cannot fetch it", code="invalid_image_url"), "invalid_image_url", "Cannot fetch it"),
        (answer(422, ""), "invalid_prompt", "The model did not accept the prompt."),
        (answer(404, "x", code="model_not_found"), "server_error", "The model 'gpt-4o' does not exist."),
        (answer(404, 'model "gpt-4o" not found'), "server_error", "The model 'gpt-4o' does not exist."),
        (answer(404, "Not Found"), "server_error", SORRY),
        (answer(404, "No route /v1/gpt-4o-mini"), "server_error", SORRY),
        (answer(404, "No such model: gpt-4o."), "server_error", "The model 'gpt-4o' does not exist."),
        (answer(401, "Incorrect API key provided: sk-abcdef"), "server_error", SORRY),
        (answer(403), "server_error", SORRY),
        (answer(302), "server_error", SORRY),
        (answer(500), "server_error", SORRY),
        (UpstreamTrouble("ClientConnectorError"), "server_error", SORRY),
    ],
)
def test_the_run_ends_with_the_code_and_text_that_clients_know(
    trouble: UpstreamTrouble, code: str, message: str
) -> None:
    failure = trouble.failure("gpt-4o", ["upstream:80"])

    assert (failure.code, failure.message) == (code, message)


@pytest.mark.parametrize(
    "body", [b"", b"<html>bad gateway", b"[]", b'{"error":null}', b'{"error":"busy"}', b'"x"', b"\xff"]
)
def test_any_body_of_an_error_is_survived(body: bytes) -> None:
    assert UpstreamTrouble.from_answer(502, body, {}).failure("m").message == SORRY


@pytest.mark.parametrize("name", ["x-request-id", "request-id", "apim-request-id", "x-ms-request-id", "cf-ray"])
def test_the_upstreams_name_for_the_request_is_found(name: str) -> None:
    assert UpstreamTrouble.from_answer(500, b"", {name: "abc"}).facts("m")["upstream_request_id"] == "abc"


def test_the_log_is_told_facts_and_no_words() -> None:
    facts = answer(400, "You said: I am Ada", code="invalid_prompt").facts("m")

    assert (facts["status"], facts["code"]) == (400, "invalid_prompt")
    assert "Ada" not in str(facts)


def test_an_error_without_an_envelope_is_read() -> None:
    trouble = UpstreamTrouble.from_answer(400, b'{"object":"error","message":"Too long","code":400}', {})

    assert trouble.failure("m").message == "Too long"


def test_no_key_and_no_address_reaches_a_client() -> None:
    said = "Bad: http://10.0.0.7:8000/v1/x sk-proj-abc123 Bearer a.b at 10.0.0.7:8000 gsk_1\0 see https://platform.openai.com/docs"

    shown = answer(400, said).failure("m", ["10.0.0.7:8000", "gsk_1"]).message

    assert shown == "Bad: [hidden] [hidden] [hidden] at [hidden] [hidden] see https://platform.openai.com/docs"


def test_an_endless_message_is_cut() -> None:
    assert len(answer(400, "x" * 100_000).failure("m").message) == 2000


@pytest.mark.parametrize(
    ("trouble", "expected"),
    [
        (answer(429), True),
        (answer(429, code="insufficient_quota"), False),
        (answer(500), True),
        (answer(503), True),
        (answer(408), True),
        (answer(400), False),
        (answer(401), False),
        (answer(404), False),
        (UpstreamTrouble("TimeoutError"), True),
        (answer(503, x_should_retry="false"), False),
        (answer(400, x_should_retry="true"), True),
        (answer(429, retry_after="121"), False),
    ],
)
def test_only_what_may_pass_is_tried_again(trouble: UpstreamTrouble, expected: bool) -> None:
    assert trouble.may_pass is expected


@pytest.mark.parametrize(
    ("name", "value", "seconds"),
    [
        ("retry_after", "7", 7.0),
        ("retry_after", "0.5", 0.5),
        ("retry_after_ms", "250", 0.25),
        ("retry_after", "soon", None),
        ("retry_after", "-3", None),
        ("retry_after", "0", None),
        ("retry_after", "Sun, 06 Nov 1994 08:49:37 GMT", None),
        ("retry_after_ms", "x", None),
        ("retry_after_ms", "nan", None),
        ("retry_after", "٣", 3.0),
        ("retry_after", "²", None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(name: str, value: str, seconds: float | None) -> None:
    assert answer(429, **{name: value}).asked_wait == seconds


def test_retry_after_may_be_a_date() -> None:
    asked = answer(429, retry_after=formatdate(time() + 30, usegmt=True)).asked_wait

    assert asked is not None
    assert 28 < asked <= 30


def test_the_operator_gets_a_hint() -> None:
    assert "UPSTREAM_API_KEY" in (answer(401).hint("m") or "")
    assert "'m'" in (answer(404, code="model_not_found").hint("m") or "")
    assert answer(500).hint("m") is None


def test_a_web_page_hints_at_the_address() -> None:
    assert "UPSTREAM_BASE_URL" in str(UpstreamTrouble("web_page").hint("m"))
