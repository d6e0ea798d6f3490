"""What a pool that closes has taken and not begun stays known to Celery, which gives it back."""

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from workers import pool as pools
from workers.pool import TaskPool, async_task

app = Celery("closing", broker="memory://", set_as_current=False)


@async_task(app, name="test.never")
async def never() -> None:
    """Is not begun."""


class Request:
    """Celery's: it is known by a weak reference, and by what the pool calls back."""

    def called(self, *_: Any, **__: Any) -> None:
        raise AssertionError("it was begun")

    def apply(self, pool: TaskPool) -> None:
        callbacks = dict.fromkeys(("accept_callback", "callback", "error_callback", "timeout_callback"), self.called)
        pool.on_apply(self.called, ("test.never", "id", {"args": [], "kwargs": {}}), **callbacks)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[TaskPool]:
    monkeypatch.setattr(pools, "_lifespan", None)
    monkeypatch.setattr(pools, "_manners", None)
    pool = TaskPool(limit=1, app=app)
    pool.on_start()
    yield pool
    pool.on_stop()


@pytest.mark.parametrize("closes", ["before", "after"])
def test_what_was_fetched_and_has_not_begun_is_not_forgotten(pool: TaskPool, closes: str) -> None:
    request = Request()
    known = weakref.ref(request)
    pool._coroutines.limit = 0
    if closes == "before":
        pool.on_close()

    request.apply(pool)
    if closes == "after":
        pool.on_close()
    del request
    gc.collect()

    assert known() is not None
