"""The conformance cases, what tests have shown of them, and docs/conformance.md made of both.

A test that shows a case is named after its number: `test_case_36_…`, `test_cases_12_32_and_33_…`. Through which door it
went (raw HTTP, or a release of an official client) follows from its fixtures or is said by a marker: see plugin.py.
The file holds neither dates nor times, so that a run that shows the same writes the same.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from tests.clients.releases import EVERY, RAW, REQUIRED

CASES = Path(__file__).parent / "cases.toml"
TABLE = Path(__file__).parents[2] / "docs" / "conformance.md"

_NAME = re.compile(r"test_cases?_(\d+(?:_(?:and_)?\d+)*)(?=_|$|\[)")
_HEAD = """\
# Conformance

Written by `./assistantd test`, a full run of which fails when this file is out of date. What must hold comes from a
list of {total} numbered cases that describe the original's behaviour, most important first. **{passed} of {total}
pass**, each by a test that is named after its number (`test_case_36_…`) and goes through raw HTTP, and through the
official clients where the case is about what they make of an answer.
{later}
"""
_TITLES = {
    "P0": "Without these a client cannot work",
    "P1": "Life cycle and streams",
    "P2": "Resources",
    "P3": "Everything around",
}


@dataclass(frozen=True)
class Case:
    """One line of cases.toml."""

    number: int
    priority: str
    says: str
    clients: tuple[str, ...] = ()
    clients_only: bool = False
    lack: tuple[str, ...] = ()
    later: str | None = None

    @property
    def doors(self) -> set[str]:
        """Through which doors it must pass."""
        raw = set() if self.clients_only else {RAW}
        return raw.union(*(REQUIRED[client] for client in self.clients)).difference(self.lack)


@dataclass
class Shown:
    """What the tests of one case came to: doors by outcome."""

    passed: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)


def read(path: Path = CASES) -> dict[int, Case]:
    """All cases by number."""
    found = {}
    for priority, lines in tomllib.loads(path.read_text()).items():
        for number, line in lines.items():
            line |= {name: tuple(line.get(name, ())) for name in ("clients", "lack")}
            found[int(number)] = Case(int(number), priority, **line)
    return found


def numbers(name: str) -> list[int]:
    """The cases that a test is named after."""
    match = _NAME.match(name)
    return [int(number) for number in re.findall(r"\d+", match[1])] if match else []


def problems(cases: Mapping[int, Case], shown: Mapping[int, Shown]) -> list[str]:
    """Why the cases cannot be called conforming, one sentence each."""
    found = [f"Tests are named after case {number}, which does not exist." for number in sorted(shown.keys() - cases)]
    for case in cases.values():
        seen = shown.get(case.number, Shown())
        if seen.failed:
            found.append(f"Case {case.number} has failed.")
        elif not case.later and (missing := case.doors - seen.passed - seen.skipped):
            found.append(f"Case {case.number} has no test through {', '.join(_sorted(missing))}: {case.says}.")
    return found


def render(cases: Mapping[int, Case], shown: Mapping[int, Shown]) -> str:
    """The file."""
    later = sorted({case.later for case in cases.values() if case.later})
    passed = sum(_state(case, shown) == "passed" for case in cases.values())
    waiting = f"What is not there yet is marked *later*: {', '.join(later)}.\n" if later else ""
    parts = [_HEAD.format(total=len(cases), passed=passed, later=waiting)]
    for priority, group in groupby(cases.values(), key=lambda case: case.priority):
        parts.append(
            f"\n## {_TITLES[priority]}\n\n| case | what must hold | state | through |\n| --- | --- | --- | --- |\n"
        )
        parts += [
            f"| {case.number} | {case.says} | {_state(case, shown)} | {_through(case, shown)} |\n" for case in group
        ]
    return "".join(parts)


def _state(case: Case, shown: Mapping[int, Shown]) -> str:
    if case.later:
        return f"later: {case.later}"
    seen = shown.get(case.number, Shown())
    if seen.failed:
        return "**failed**"
    return "passed" if case.doors <= seen.passed else "**no test**"


def _through(case: Case, shown: Mapping[int, Shown]) -> str:
    if case.later or case.number not in shown:
        return ""
    kinds = groupby(_sorted(shown[case.number].passed), key=lambda door: door.split()[0])
    return " · ".join(
        " ".join([kind, ", ".join(door.split()[1] for door in doors if " " in door)]).strip() for kind, doors in kinds
    )


def _sorted(doors: Iterable[str]) -> list[str]:
    return sorted(doors, key=EVERY.index)
