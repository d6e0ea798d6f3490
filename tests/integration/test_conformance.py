"""The plugin that watches conformance cases, on a little suite of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack import ROOT

CONFTEST = """
from pathlib import Path
from tests.conformance.plugin import Conformance
from tests.conformance.table import Case

def pytest_configure(config):
    config.addinivalue_line("markers", "through(*doors)")
    cases = {5: Case(5, "P0", "It works"), 6: Case(6, "P1", "It stands still", later="later things")}
    config.pluginmanager.register(Conformance(config, cases, Path(__file__).with_name("table.md")))
"""
PASSING = "def test_case_05_it_works():\n    pass\n\ndef test_other():\n    pass\n"
FAILING = PASSING.replace("pass", "assert False", 1)
SKIPPED = "import pytest\n\n@pytest.mark.skip\n" + PASSING
ROW = "| 5 | It works | passed | HTTP |\n"


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = test_it.py\n")
    return tmp_path


def run(suite: Path, tests: str, *options: str) -> tuple[int, str]:
    """The exit code of a run and the table that is there afterwards."""
    (suite / "test_it.py").write_text(tests)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options],
        cwd=suite,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    table = suite / "table.md"
    return done.returncode, table.read_text() if table.exists() else ""


def test_a_full_run_writes_the_table_and_fails_until_it_is_the_one_that_was_there(suite: Path) -> None:
    first, table = run(suite, PASSING)
    second, again = run(suite, PASSING)

    assert (first, second) == (1, 0)
    assert ROW in table
    assert table == again


def test_a_run_of_a_part_writes_nothing_and_misses_nothing(suite: Path) -> None:
    assert run(suite, PASSING, "-k", "other") == (0, "")
    assert run(suite, PASSING, "test_it.py") == (0, "")


def test_a_case_that_fails_or_loses_its_test_fails_the_run(suite: Path) -> None:
    run(suite, PASSING)

    failed, kept = run(suite, FAILING)
    lost, table = run(suite, "def test_other():\n    pass\n")

    assert failed == lost == 1
    assert ROW in kept
    assert "| 5 | It works | **no test** |  |\n" in table


def test_where_a_case_cannot_be_tested_the_table_is_left_alone(suite: Path) -> None:
    run(suite, PASSING)

    passed, table = run(suite, SKIPPED)

    assert passed == 0
    assert ROW in table
