"""What a scenario finds: tables that are printed and appended to a JSON file, with facts of the machine that measured.

Nothing in the file names the machine: no host, no user, no path.
"""

import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import rich.table
from rich.console import Console

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = ROOT / "bench" / "results" / "latest.json"
PACKAGES: Final = ("celery", "fastapi", "uvicorn", "uvloop", "redis", "sqlalchemy", "asyncpg", "aiohttp")

Value = str | int | float | None
Row = dict[str, Value]


@dataclass(frozen=True)
class Options:
    """How a scenario is run. `tree` is the source tree whose processes are measured: another commit's, to compare.

    `against` is a second one that `compare` measures beside it.
    """

    quick: bool = False
    results: Path = RESULTS
    tree: Path = ROOT
    against: Path | None = None
    synchronous_commit: bool = True
    environment: dict[str, str] = field(default_factory=dict)


@dataclass
class Table:
    """Rows of one kind. The first row names the columns; a later row may lack some."""

    scenario: str
    title: str
    rows: list[Row]
    note: str = ""


Scenario = Callable[[Options], Iterator[Table]]
"""Measures, and yields each table as soon as it is whole."""


def show(table: Table) -> None:
    """Print it."""
    columns = list(dict.fromkeys(column for row in table.rows for column in row))
    drawn = rich.table.Table(*columns, title=table.title, caption=table.note or None, title_justify="left")
    for row in table.rows:
        drawn.add_row(*(_shown(row.get(column)) for column in columns))
    Console(width=max(120, 12 * len(columns))).print(drawn)


def progress(what: str) -> None:
    """Say on standard error what is measured now; it is not part of the report."""
    Console(stderr=True).print(f"{datetime.now(UTC):%H:%M:%S} {what}", highlight=False)


def append(table: Table, options: Options) -> None:
    """Add it to the JSON file, which is replaced in one step."""
    path = options.results
    path.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(path.read_text()) if path.exists() else []
    entry = {
        "scenario": table.scenario,
        "title": table.title,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(options.tree),
        "quick": options.quick,
        "synchronous_commit": options.synchronous_commit,
        "environment": options.environment,
        "machine": machine(),
        "note": table.note,
        "rows": table.rows,
    }
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps([*found, entry], indent=1, ensure_ascii=False) + "\n")
    new.replace(path)


def machine() -> dict[str, Value]:
    """What the figures depend on: processors, their load by others, and versions."""
    return {
        "processors": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "system": platform.system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of the values do not exceed; not a number if there are none."""
    if not values:
        return float("nan")
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def ms(seconds: float) -> float:
    """Milliseconds, rounded as a table shows them."""
    return round(seconds * 1e3, 1)


def us(seconds: float) -> int:
    """Microseconds, rounded as a table shows them."""
    return round(seconds * 1e6)


def _shown(value: Value) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int | float) else value


def _commit(tree: Path) -> str | None:
    command = ["git", "-C", str(tree), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
