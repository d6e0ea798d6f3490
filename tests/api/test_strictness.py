"""That the check of all answers would notice: what it refuses, and where our types are wider than the official ones."""

from typing import Any

import pytest
from openai import types
from openai.types import beta
from openai.types.beta import threads
from openai.types.beta.threads import runs
from openai.types.uploads import UploadPart
from pydantic import BaseModel

from orchestrator.wire import schemas
from tests import wiretap
from tests.api.checks import EVENTS, SCHEMAS, Event, check_event, check_exchange, check_object
from tests.api.http import Http
from tests.wiretap import Exchange

OFFICIAL: dict[type[BaseModel], tuple[type[BaseModel], set[str]]] = {
    schemas.Assistant: (beta.Assistant, {"reasoning_effort"}),
    schemas.Thread: (beta.Thread, {"on_active_run"}),
    schemas.Message: (threads.Message, set()),
    schemas.Run: (threads.Run, {"instructions", "last_error", "reasoning_effort", "tool_resources", "usage"}),
    schemas.RunStep: (runs.RunStep, {"expires_at", "usage"}),
    schemas.File: (types.FileObject, {"purpose"}),
    schemas.FileDeleted: (types.FileDeleted, set()),
    schemas.Upload: (types.Upload, {"file"}),
    schemas.UploadPart: (UploadPart, set()),
    schemas.Model: (types.Model, set()),
}
"""Our types, the official ones, and the fields in which they differ."""


@pytest.fixture
def thread(http: Http) -> Any:
    return http.thread()


def test_our_types_are_the_official_ones_but_for_what_stands_here() -> None:
    for ours, (official, wider) in OFFICIAL.items():
        assert issubclass(ours, official)
        theirs = {name: (field.annotation, field.default) for name, field in official.model_fields.items()}
        all_ = {name: (field.annotation, field.default) for name, field in ours.model_fields.items()}
        assert {name for name in all_ if all_[name] != theirs.get(name)} == wider, ours.__name__


def test_every_type_that_answers_are_held_against_is_an_official_one() -> None:
    for kind, type_ in SCHEMAS.items():
        assert type_ in OFFICIAL or type_.__module__.startswith("openai.types."), kind


def test_the_official_client_knows_24_events_and_we_know_the_type_of_each() -> None:
    assert len(EVENTS) == 24
    assert all(
        any(issubclass(ours, type_) for ours in SCHEMAS.values()) for name, type_ in EVENTS.items() if name != "error"
    )


@pytest.mark.parametrize(
    "change",
    [{"foo": 1}, {"created_at": "1"}, {"created_at": 1.0}, {"metadata": {"k": 1}}, {"tool_resources": {"foo": {}}}],
)
def test_a_wrong_key_or_value_is_noticed(thread: Any, change: dict[str, Any]) -> None:
    check_object(thread)

    with pytest.raises((AssertionError, ValueError)):
        check_object({**thread, **change})


def test_a_wrong_key_is_noticed_in_what_is_ours_too(http: Http) -> None:
    run = http.finish("Hi")
    check_object(run)

    run["usage"]["prompt_token_details"]["foo"] = 1

    with pytest.raises(ValueError, match=r"prompt_token_details\.foo"):
        check_object(run)


def test_a_missing_key_is_noticed(http: Http, thread: Any) -> None:
    (step,) = http.steps(http.finish("Hi"))
    del step["expires_at"], thread["metadata"]

    for lacking in (step, thread):
        with pytest.raises(AssertionError):
            check_object(lacking)


def test_an_event_with_another_events_data_or_status_is_noticed(http: Http) -> None:
    run = http.finish("Hi")
    check_event(Event("thread.run.completed", run))

    for name in ("thread.run.queued", "thread.message.completed", "thread.run.finished"):
        with pytest.raises((AssertionError, KeyError)):
            check_event(Event(name, run))


def test_whatever_is_answered_over_the_wire_is_heard(http: Http) -> None:
    wiretap.HEARD.clear()

    run = http.finish("Hi")
    http.follow(run)
    http.refused("GET", "/threads/thread_none", status=404)

    heard = list(wiretap.HEARD)
    assert [exchange.method for exchange in heard[:3]] == ["POST"] * 3
    assert heard[-2].whole
    assert heard[-2].body.endswith(b"data: [DONE]\n\n")
    assert (heard[-1].status, heard[-1].json()["error"]["param"]) == (404, None)
    changes: list[dict[str, Any]] = [{"headers": {}}, {"body": bytearray(b"{}")}, {"status": 500}]
    for change in changes:
        with pytest.raises((AssertionError, KeyError)):
            check_exchange(Exchange(**{**vars(heard[-1]), **change}))
