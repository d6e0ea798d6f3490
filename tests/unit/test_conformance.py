"""The table of conformance cases: names of tests, what is missing, what is written."""

import pytest

from tests.clients.releases import EVERY, OURS, RAW
from tests.conformance.table import Case, Shown, numbers, problems, read, render

CASE = Case(5, "P0", "It works", ("python",))
ALL = CASE.doors


def test_all_159_cases_are_there_and_158_was_never_given_out() -> None:
    assert set(read()) == {*range(1, 161)} - {158}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test_case_05_a_run_is_queued", [5]),
        ("test_cases_12_32_and_33_outputs", [12, 32, 33]),
        ("test_case_36_and_40_of_runs_that_are_over[x]", [36, 40]),
        ("test_case_48_budgets_begin_at_256_tokens", [48]),
        ("test_case_110", [110]),
        ("test_a_case_of_7_messages", []),
        ("test_cases_are_fine", []),
    ],
)
def test_a_name_tells_its_cases(name: str, expected: list[int]) -> None:
    assert numbers(name) == expected


def test_a_case_needs_raw_http_and_the_last_and_the_first_release_of_each_client() -> None:
    assert {RAW, "Python 1.109.1", OURS} == ALL
    assert EVERY > [RAW]
    assert Case(159, "P3", "", ("node",), clients_only=True).doors == {"Node 4.104.0", "Node 7.57.0"}
    assert read()[152].doors == {RAW, "Python 1.109.1", OURS, "Node 7.57.0"}


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ({5: Shown(passed=ALL)}, []),
        ({5: Shown(passed=ALL - {RAW}, skipped={RAW})}, []),
        ({5: Shown(passed=ALL, failed={RAW})}, ["Case 5 has failed."]),
        ({5: Shown(passed={RAW, OURS})}, ["Case 5 has no test through Python 1.109.1: It works."]),
        ({}, [f"Case 5 has no test through HTTP, Python 1.109.1, {OURS}: It works."]),
        ({5: Shown(passed=ALL), 6: Shown()}, ["Tests are named after case 6, which does not exist."]),
    ],
)
def test_a_case_without_a_passing_test_through_every_door_is_a_problem(
    shown: dict[int, Shown], said: list[str]
) -> None:
    assert problems({5: CASE}, shown) == said


def test_what_comes_later_needs_no_test() -> None:
    assert problems({29: Case(29, "P0", "Code", later="code interpreter")}, {}) == []


def test_the_table_says_through_which_doors_a_case_passed_and_never_more() -> None:
    cases = {5: CASE, 6: Case(6, "P1", "No test"), 7: Case(7, "P1", "Code", later="code interpreter")}
    shown = {5: Shown(passed={*ALL, "Node 7.57.0", "Node 4.104.0"})}

    lines = render(cases, shown).splitlines()

    assert f"| 5 | It works | passed | HTTP · Python 1.109.1, {OURS.split()[1]} · Node 4.104.0, 7.57.0 |" in lines
    assert "| 6 | No test | **no test** |  |" in lines
    assert "| 7 | Code | later: code interpreter |  |" in lines
    assert "**1 of 3" in "\n".join(lines)
