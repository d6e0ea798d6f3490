"""Declaring coroutine tasks, and replaying how they ended."""

import asyncio
from typing import Any

import pytest
from celery import Celery

from workers.tasks import AsyncTask, Call, Outcome, RetryError, async_task, replay


@pytest.fixture
def app() -> Celery:
    return Celery("test", set_as_current=False, broker="memory://")


def declared(app: Celery) -> Any:
    @async_task(app, name="test.double")
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
