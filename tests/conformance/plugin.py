"""Watches the tests that are named after conformance cases; a full run writes docs/conformance.md, or fails.

A full run is one of everything: no paths, no selection, nothing stopped early. It fails when a case has lost its tests,
and when the file on disk was not what the run has shown; the file is then written anew, to be looked at and committed.
Where tests of cases were skipped (on a machine without Node) or have failed, nothing is written.

A test goes through the doors that `@pytest.mark.through("…")` names (see tests/clients/releases.py); without it,
through our release of the Python client if it uses one of the fixtures below, else through raw HTTP.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.clients.releases import EVERY, OURS, RAW
from tests.conformance.table import TABLE, Case, Shown, numbers, problems, read, render

CLIENTS = {"client", "async_client"}


class Conformance:
    """One test session."""

    def __init__(self, config: pytest.Config, cases: Mapping[int, Case] | None = None, table: Path = TABLE) -> None:
        self.config = config
        self.cases = read() if cases is None else cases
        self.table = table
        self.doors: dict[str, set[str]] = {}
        self.numbers: dict[str, list[int]] = {}
        self.shown: dict[int, Shown] = defaultdict(Shown)
        self.deselected = False
        self.said: list[str] = []

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Whoever leaves tests out has no full run."""
        self.deselected = self.deselected or bool(items)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Remember which tests are about cases, and through which doors they go."""
        for item in session.items:
            if found := numbers(item.name):
                self.numbers[item.nodeid] = found
                self.doors[item.nodeid] = doors_of(item)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count what a test came to; whatever fails in it or around it is a failure."""
        for number in self.numbers.get(report.nodeid, ()):
            shown, doors = self.shown[number], self.doors[report.nodeid]
            if report.failed:
                shown.failed |= doors
            elif report.skipped:
                shown.skipped |= doors
            elif report.when == "call":
                shown.passed |= doors

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """At the end of a full run, compare and write."""
        if not self._is_full(session):
            return
        self.said = problems(self.cases, self.shown)
        complete = not any(shown.skipped or shown.failed for shown in self.shown.values())
        if complete and self._is_new():
            self.said.append(f"{self.table.name} was out of date and has been written anew: look at it and commit it.")
        if self.said:
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
        if not complete:
            self.said.append(
                f"{self.table.name} was not looked at, because tests of cases were skipped or have failed."
            )

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what is wrong."""
        if self.said:
            terminalreporter.section("conformance")
        for line in self.said:
            terminalreporter.write_line(line)

    def _is_new(self) -> bool:
        now = render(self.cases, self.shown)
        if self.table.exists() and self.table.read_text() == now:
            return False
        self.table.write_text(now)
        return True

    def _is_full(self, session: pytest.Session) -> bool:
        everything = self.config.args_source is pytest.Config.ArgsSource.TESTPATHS
        stopped = session.shouldstop or session.shouldfail or session.exitstatus == pytest.ExitCode.INTERRUPTED
        return everything and not (self.deselected or stopped or self.config.option.collectonly)


def doors_of(item: pytest.Item) -> set[str]:
    """Through which doors a test goes."""
    marked = {door for mark in item.iter_markers("through") for door in mark.args}
    if unknown := marked.difference(EVERY):
        raise pytest.UsageError(
            f"{item.nodeid} goes through {unknown}, which nobody knows; see tests/clients/releases.py"
        )
    if marked:
        return marked
    return {OURS if CLIENTS.intersection(getattr(item, "fixturenames", ())) else RAW}
