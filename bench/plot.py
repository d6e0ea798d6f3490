"""Draw results as bars, in SVG made by hand, for the docs.

    python -m bench.plot bench/results/after.json --before bench/results/before.json --into docs/performance

Every plot that the results have figures for is drawn: added time to the first token, runs a second, CPU of a run. The
last table of a scenario counts. Bars are logarithmic, since before and after lie far apart; each says its value.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

Results = list[dict[str, Any]]
Bars = dict[str, dict[str, float]]
"""By what was measured, then by series: a value each."""

WIDTH, LABELS, VALUES = 760, 190, 80
BAR, GAP, TOP = 16, 12, 58
COLOURS: Final = {"before": "#9aa5b1", "now": "#2f6fde"}
OTHER: Final = "#2a9d62"
STYLE: Final = (
    "text{font:13px system-ui,sans-serif;fill:#1f2933}.title{font-weight:600;font-size:15px}.small{font-size:12px}"
    "@media(prefers-color-scheme:dark){text{fill:#e4e7eb}}"
)


@dataclass(frozen=True)
class Plot:
    """A file, what it is called, and where its figures are."""

    file: str
    title: str
    scenario: str
    label: Callable[[dict[str, Any]], str]
    column: str


PLOTS = (
    Plot(
        "first-token.svg",
        "Time added to the first token, median, ms",
        "latency",
        lambda r: r["load"],
        "added first p50",
    ),
    Plot("runs.svg", "Runs a second at an instant model", "throughput", lambda r: r["way"], "runs/s"),
    Plot(
        "cpu.svg", "CPU of a run at an instant model, whole stack, µs", "throughput", lambda r: r["way"], "stack µs/run"
    ),
    Plot(
        "requests.svg", "95th percentile of a request at 50 a second, ms", "requests", lambda r: _request(r), "p95 ms"
    ),
    Plot("polling.svg", "A run's time beyond the model's, median, ms", "polling", lambda r: r["way"], "added p50 ms"),
)


def bars(title: str, found: Bars) -> str:
    """A plot: for each thing measured one bar of each series."""
    series = list(dict.fromkeys(name for values in found.values() for name in values))
    most = max((value for values in found.values() for value in values.values()), default=1.0)
    parts, y = [], TOP
    for label, values in found.items():
        parts.append(_text(LABELS - 10, y + BAR * len(values) / 2 + 4, label, "end"))
        for name, value in values.items():
            width = _length(value, most)
            colour = COLOURS.get(name, OTHER)
            parts.append(f'<rect x="{LABELS}" y="{y}" width="{width:.1f}" height="{BAR - 2}" rx="2" fill="{colour}"/>')
            parts.append(_text(LABELS + width + 6, y + BAR - 4, _told(value), kind="small"))
            y += BAR
        y += GAP
    size = f'width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}"'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}"><style>{STYLE}</style>'
    )
    return "\n".join([head, _text(10, 22, title, kind="title"), *_legend(series), *parts, "</svg>\n"])


def _legend(series: list[str]) -> list[str]:
    parts = []
    for number, name in enumerate(series):
        x = LABELS + 130 * number
        parts.append(f'<rect x="{x}" y="34" width="12" height="12" rx="2" fill="{COLOURS.get(name, OTHER)}"/>')
        parts.append(_text(x + 18, 45, name, kind="small"))
    return parts


def _length(value: float, most: float) -> float:
    """A decade is as long everywhere; what is below one, or nothing, still shows."""
    room = WIDTH - LABELS - VALUES
    return max(2.0, room * math.log10(1 + max(value, 0.0)) / max(math.log10(1 + most), 1e-9))


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "label") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def _told(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def _request(row: dict[str, Any]) -> str:
    return f"{row['request'].replace('_', ' ')}, {row['open streams']} streams"


def gather(plot: Plot, results: dict[str, Results]) -> Bars:
    """The plot's figures of each file of results; the last table counts."""
    found: Bars = {}
    for name, tables in results.items():
        rows: list[dict[str, Any]] = next(
            (table["rows"] for table in reversed(tables) if table["scenario"] == plot.scenario), []
        )
        for row in rows:
            if row.get(plot.column) is not None:
                found.setdefault(plot.label(row), {})[name] = float(row[plot.column])
    return found


def main() -> None:
    """Draw all plots that there are figures for."""
    parser = argparse.ArgumentParser(description="Draw results as SVG.")
    parser.add_argument("results", type=Path)
    parser.add_argument("--before", type=Path, help="results to compare with, drawn first")
    parser.add_argument("--into", type=Path, default=Path("docs/performance"))
    given = parser.parse_args()
    files = {"before": given.before, "now": given.results} if given.before else {"now": given.results}
    results: dict[str, Results] = {name: json.loads(path.read_text()) for name, path in files.items()}
    given.into.mkdir(parents=True, exist_ok=True)
    for plot in PLOTS:
        if found := gather(plot, results):
            (given.into / plot.file).write_text(bars(plot.title, found))


if __name__ == "__main__":
    main()
