"""Interruptions: felt at once, for their own reason, never in the middle of a line."""

import asyncio

import pytest

from orchestrator.errors import RunCancelled, RunExpired
from orchestrator.execution.interrupts import Interrupts

LATER = 600.0


def within(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_a_waiting_run_is_interrupted_at_once_with_the_reason() -> None:
    interrupts = Interrupts()
    asyncio.get_running_loop().call_soon(interrupts.interrupt, RunCancelled())

    with pytest.raises(RunCancelled):
        async with interrupts.allowed(within(LATER)):
            await asyncio.Event().wait()


async def test_a_line_is_written_to_its_end_before_the_interruption_is_felt() -> None:
    interrupts = Interrupts()
    written = False

    async def run() -> None:
        nonlocal written
        async with interrupts.allowed(within(LATER)):
            with interrupts.deferred():
                interrupts.interrupt(RunCancelled())
                await asyncio.sleep(0)
                written = True
            interrupts.check()

    with pytest.raises(RunCancelled):
        await run()
    assert written


async def test_the_first_reason_counts() -> None:
    interrupts = Interrupts()
    interrupts.interrupt(RunExpired())
    interrupts.interrupt(RunCancelled())

    with pytest.raises(RunExpired):
        interrupts.check()


async def test_a_run_past_its_time_expires() -> None:
    with pytest.raises(RunExpired):
        async with Interrupts().allowed(within(-1)):
            await asyncio.Event().wait()


async def test_a_shutdown_is_no_interruption() -> None:
    interrupts = Interrupts()

    async def run() -> None:
        async with interrupts.allowed(within(LATER)):
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
