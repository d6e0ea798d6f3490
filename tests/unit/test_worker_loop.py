"""The loop's thread and the lifespan on it."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from workers import loop as loop_module
from workers.loop import LifespanError, LoopThread


async def refuse() -> None:
    raise ConnectionError("no database")


def nothing() -> None:
    """A check that finds nothing."""


async def lost() -> None:
    """What to do when the lifespan is lost."""


class Recorded:
    """A lifespan that notes what happens to it."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.task: asyncio.Task[object] | None = None

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[None]:
        self.task = asyncio.current_task()
        self.events.append("entered")
        try:
            yield
        finally:
            assert asyncio.current_task() is self.task
            self.events.append("left")


def test_the_lifespan_is_entered_before_start_returns_and_left_once_by_stop() -> None:
    lifespan = Recorded()
    thread = LoopThread(lifespan, lost)

    thread.start(nothing)
    entered = list(lifespan.events)
    thread.stop()
    thread.stop()

    assert entered == ["entered"]
    assert lifespan.events == ["entered", "left"]


def test_what_is_called_after_the_end_is_not_run() -> None:
    thread = LoopThread(None, lost)
    thread.start(nothing)
    called = threading.Event()

    assert thread.call(called.set)
    assert called.wait(10)
    thread.stop()
    assert not thread.call(called.set)


def test_a_lifespan_that_raises_fails_the_start_with_its_cause() -> None:
    @asynccontextmanager
    async def failing() -> AsyncIterator[None]:
        await refuse()
        yield

    with pytest.raises(LifespanError) as failed:
        LoopThread(failing, lost).start(nothing)

    assert isinstance(failed.value.__cause__, ConnectionError)


def test_a_lifespan_that_hangs_while_entering_fails_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "ENTER_TIMEOUT", 0.2)

    @asynccontextmanager
    async def hanging() -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield

    with pytest.raises(LifespanError) as failed:
        LoopThread(hanging, lost).start(nothing)

    assert isinstance(failed.value.__cause__, TimeoutError)


def test_a_shutdown_while_entering_ends_the_wait() -> None:
    @asynccontextmanager
    async def hanging() -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield

    def shutdown() -> None:
        raise SystemExit(0)

    thread = LoopThread(hanging, lost)
    with pytest.raises(SystemExit):
        thread.start(shutdown)

    assert thread.loop.is_closed()


def test_a_lifespan_that_hangs_while_leaving_does_not_hold_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "EXIT_TIMEOUT", 0.2)

    @asynccontextmanager
    async def hanging() -> AsyncIterator[None]:
        yield
        await asyncio.Event().wait()

    thread = LoopThread(hanging, lost)
    thread.start(nothing)
    thread.stop()

    assert thread.loop.is_closed()


def test_a_lifespan_that_ends_early_is_reported_before_it_closes_anything() -> None:
    events: list[str] = []
    closed = threading.Event()

    @asynccontextmanager
    async def crashing() -> AsyncIterator[None]:
        task = asyncio.current_task()
        assert task
        try:
            asyncio.get_running_loop().call_soon(task.cancel)
            yield
        finally:
            events.append("closed")
            closed.set()

    async def lose() -> None:
        await asyncio.sleep(0)
        events.append("lost")

    thread = LoopThread(crashing, lose)
    with suppress(LifespanError):  # when it ends before `start` has looked
        thread.start(nothing)

    assert closed.wait(10)
    thread.stop()
    assert events == ["lost", "closed"]


def test_the_loop_survives_a_task_that_raises_system_exit() -> None:
    async def leave() -> None:
        raise SystemExit(1)

    thread = LoopThread(None, lost)
    thread.start(nothing)
    thread.call(lambda: thread.loop.create_task(leave()).add_done_callback(lambda task: task.exception()))
    called = threading.Event()
    thread.call(called.set)

    assert called.wait(10)
    thread.stop()
