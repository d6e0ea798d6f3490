"""Declaring coroutine tasks, and replaying how they ended."""

import asyncio
import base64
import json
import logging
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery, signals
from kombu.utils import json as stock_json

from orchestrator.queue import message
from workers import json_bodies
from workers.tasks import AsyncTask, Call, Outcome, RetryError, async_task, replay


@pytest.fixture
def app() -> Celery:
    return Celery("test", set_as_current=False, broker="memory://")


def declared(app: Celery) -> Any:
    @async_task(app, name="test.double", shared=False)
    async def double(number: int) -> int:
        """Twice as much."""
        return 2 * number

    return double


def test_a_task_is_registered_under_its_name_with_its_options_and_docstring(app: Celery) -> None:
    @async_task(app, name="test.limited", time_limit=7, bind=True)
    async def limited(call: Call) -> None:
        """Has a limit."""

    task = app.tasks["test.limited"]
    assert isinstance(task, AsyncTask)
    assert (task.time_limit, task.__doc__) == (7, "Has a limit.")


def test_the_coroutine_gets_the_arguments_of_the_request(app: Celery) -> None:
    task = declared(app)

    assert asyncio.run(task.call({"args": [21], "kwargs": {}})) == 42
    assert asyncio.run(task.call({"args": [], "kwargs": {"number": 4}})) == 8


def test_a_bound_coroutine_learns_about_its_delivery(app: Celery) -> None:
    @async_task(app, name="test.bound", bind=True)
    async def bound(call: Call, extra: str) -> tuple[str, int, bool, str]:
        return call.id, call.retries, call.redelivered, extra

    request = {"id": "7", "retries": 2, "delivery_info": {"redelivered": True}, "args": ["x"], "kwargs": {}}
    task: Any = app.tasks["test.bound"]
    assert asyncio.run(task.call(request)) == ("7", 2, True, "x")


def test_callers_arguments_are_checked_against_the_coroutine(app: Celery) -> None:
    with pytest.raises(TypeError):
        declared(app).apply_async(())


def test_a_replay_returns_or_raises_what_the_coroutine_did(app: Celery) -> None:
    task = declared(app)

    assert replay(Outcome(42), task, (21,)) == 42
    with pytest.raises(LookupError):
        replay(Outcome(error=LookupError()), task, (21,))


def test_a_replay_inside_a_replay_leaves_the_outer_one_as_it_was(app: Celery) -> None:
    task = declared(app)

    def interrupted(number: int) -> tuple[int, int]:
        return replay(Outcome("inner"), task, (number,)), task(number)

    assert replay(Outcome("outer"), interrupted, (1,)) == ("inner", "outer")


def test_a_coroutine_task_refuses_to_run_anywhere_else(app: Celery) -> None:
    with pytest.raises(RuntimeError, match=r"workers\.pool:TaskPool"):
        declared(app)(21)


def test_asking_for_a_retry_ends_the_call() -> None:
    reason = ValueError("later")

    with pytest.raises(RetryError) as asked:
        Call({"id": "1"}).retry(exc=reason, countdown=3)

    assert asked.value.options == {"exc": reason, "countdown": 3}


# -- when Celery's tracer has nothing to do ----------------------------------------------------------------------------

BODY = b'[["run_1"],{},{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]'


def delivery(body: Any = BODY, **request: Any) -> tuple[Any, ...]:
    return "test.plain", "id", request, body, "application/json", "utf-8"


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("celery.app.trace"), "level", logging.WARNING)
    logging.getLogger("celery.app.trace").manager._clear_cache()  # type: ignore[attr-defined]


def plain(app: Celery, **options: Any) -> Any:
    @async_task(app, name=f"test.plain.{uuid4().hex}", ignore_result=True, shared=False, **options)
    async def plain(_run_id: str) -> None:
        """Returns nothing."""

    return plain


@pytest.mark.usefixtures("quiet")
def test_our_messages_and_those_of_celery_are_plain(app: Celery) -> None:
    theirs = app.amqp.as_task_v2("id", "test.plain", args=("run_1",))
    ours = base64.b64decode(json.loads(message("test.plain", "run_1")[1])["body"])

    assert plain(app).is_plain(delivery(ours))
    assert plain(app).is_plain(delivery(json.dumps(theirs.body).encode()))


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    "other",
    [
        delivery(ignore_result=False),
        delivery(BODY.replace(b'"callbacks":null', b'"callbacks":[{"task":"next"}]')),
        delivery(BODY.replace(b'"chord":null', b'"chord":{"task":"next"}')),
        delivery([["run_1"], {}, {}]),
    ],
)
def test_a_message_that_asks_for_more_goes_through_the_tracer(app: Celery, other: tuple[Any, ...]) -> None:
    assert not plain(app).is_plain(other)


@pytest.mark.usefixtures("quiet")
def test_a_task_that_has_hooks_goes_through_the_tracer(app: Celery) -> None:
    assert not plain(app, on_success=lambda *_: None).is_plain(delivery())


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("signal", [signals.task_prerun, signals.task_success, signals.task_postrun])
def test_a_task_that_somebody_listens_to_goes_through_the_tracer(app: Celery, signal: Any) -> None:
    task = plain(app)

    def hear(**_: Any) -> None:
        """Hears."""

    signal.connect(hear)
    try:
        assert not task.is_plain(delivery())
    finally:
        signal.disconnect(hear)
    assert task.is_plain(delivery())


# -- reading JSON ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [{"a": [1, 2.5, None, "größe"]}, {"at": datetime(2026, 11, 23, tzinfo=UTC)}, [float("inf")], "\ud800", ""]
)
def test_json_is_read_as_kombu_reads_it(value: Any) -> None:
    document = stock_json.dumps(value)

    assert json_bodies.loads(document) == json_bodies.loads(document.encode()) == stock_json.loads(document) == value


def test_what_is_no_json_is_refused_as_kombu_does() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        json_bodies.loads(b"{")
