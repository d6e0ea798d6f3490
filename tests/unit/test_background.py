"""Tasks beside a block: ended with it, whatever they do; heard of when they fail."""

import asyncio

import pytest
from structlog.testing import capture_logs

from orchestrator.background import background


async def test_a_task_that_swallows_a_cancellation_is_ended_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.background.INSIST", 0.01)
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 3:
                    raise

    async with background(stubborn(), "stubborn"):
        await asyncio.sleep(0)

    assert swallowed == 3


async def test_a_task_that_fails_is_logged() -> None:
    async def failing() -> None:
        raise RuntimeError("broken")

    with capture_logs() as logs:
        async with background(failing(), "failing"):
            await asyncio.sleep(0)

    assert [(line["event"], line["task"]) for line in logs] == [("background_task_failed", "failing")]
