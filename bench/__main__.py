"""`python -m bench <scenario>…`: measure, print tables, append to a JSON file. `all` is every scenario, one by one."""

import argparse
import signal
import sys
from pathlib import Path

from bench.celery_costs import celery_costs
from bench.compare import compare
from bench.growth import growth
from bench.latency import latency
from bench.limits import at_once, limits
from bench.limits_postgres import postgres
from bench.limits_tokens import tokens
from bench.peers import peers
from bench.report import RESULTS, ROOT, Options, Scenario, append, progress, show
from bench.requests import requests
from bench.scaling import scaling
from bench.stalled import stalled
from bench.throughput import throughput
from bench.tool_rounds import tool_rounds
from orchestrator.open_files import allow_many

SCENARIOS: dict[str, Scenario] = {
    "latency": latency,
    "throughput": throughput,
    "requests": requests,
    "tool_rounds": tool_rounds,
    "scaling": scaling,
    "stalled": stalled,
    "compare": compare,
    "limits": limits,
    "at-once": at_once,
    "celery": celery_costs,
    "tokens": tokens,
    "postgres": postgres,
    "growth": growth,
    "peers": peers,
}
"""By name, in the order of `all`."""


def main() -> None:
    """Run what was asked for. What was started ends with it, and folders go, also when it is stopped."""
    options, names = _options()
    allow_many()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        for name in names:
            progress(f"{name}: starts what it measures")
            for table in SCENARIOS[name](options):
                show(table)
                append(table, options)
    except KeyboardInterrupt:
        sys.exit(130)


def _options() -> tuple[Options, list[str]]:
    told = "\n".join(f"  {name:12} {(scenario.__doc__ or '').splitlines()[0]}" for name, scenario in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=f"Measure.\n\n{told}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", metavar="scenario", choices=[*SCENARIOS, "all"])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: to try it, not to quote it")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the JSON file to append to")
    parser.add_argument("--tree", type=Path, default=ROOT, help="measure the processes of this source tree")
    parser.add_argument("--against", type=Path, help="a source tree that `compare` measures beside it, in turns")
    parser.add_argument("--synchronous-commit", choices=["on", "off"], default="on", help="of Postgres")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the processes")
    given = parser.parse_args()
    if "compare" in given.names and not given.against:
        parser.error("compare needs the tree to compare with: --against TREE")
    options = Options(
        quick=given.quick,
        results=given.results,
        tree=given.tree.absolute(),
        against=given.against and given.against.absolute(),
        synchronous_commit=given.synchronous_commit == "on",
        environment=dict(_pair(text) for text in given.set),
    )
    return options, _all(options) if "all" in given.names else given.names


def _all(options: Options) -> list[str]:
    return [name for name in SCENARIOS if name != "compare" or options.against]


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


if __name__ == "__main__":
    main()
