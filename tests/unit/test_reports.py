"""Reports from the loop thread to the hub thread: none is lost, whoever looks first."""

import asyncio
from typing import Any, cast

import pytest

from workers.loop import LoopThread
from workers.reports import Reports

SOON = 0.001


class Here:
    """Stands for the loop thread: the test's own loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()


def reports_to(handle: Any) -> Reports[str]:
    return Reports(cast("LoopThread", Here()), handle)


async def woken(reports: Reports[str]) -> None:
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(reports.wake.fileno(), readable.set)
    try:
        await asyncio.wait_for(readable.wait(), 60)
    finally:
        loop.remove_reader(reports.wake.fileno())


async def test_reports_that_wait_for_company_are_handled_together_and_in_order() -> None:
    heard: list[str] = []
    reports = reports_to(heard.append)
    for report in ("first", "second", "third"):
        reports.add(report, SOON)

    await woken(reports)
    reports.handle()

    assert heard == ["first", "second", "third"]
    assert not reports.wake.wait(0)


async def test_a_report_in_a_hurry_wakes_at_once() -> None:
    reports = reports_to(print)
    reports.add("patient", 3600)

    reports.add("limit", 0)

    assert reports.wake.wait(0)


async def test_what_came_after_the_hub_looked_by_itself_is_told_all_the_same() -> None:
    heard: list[str] = []
    reports = reports_to(heard.append)
    reports.add("first", SOON)
    assert reports.handle_waiting()
    assert not reports.handle_waiting()

    reports.add("second", SOON)
    await woken(reports)
    reports.handle()

    assert heard == ["first", "second"]


async def test_what_waits_behind_a_report_that_fails_is_handled_next() -> None:
    heard: list[str] = []

    def handle(report: str) -> None:
        if report == "broken":
            raise LookupError(report)
        heard.append(report)

    reports = reports_to(handle)
    for report in ("broken", "fine"):
        reports.add(report, 3600)

    with pytest.raises(LookupError):
        reports.handle_waiting()

    assert reports.wake.wait(0)
    reports.handle()
    assert heard == ["fine"]
