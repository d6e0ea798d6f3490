"""`assistantd test`: the whole test-suite."""

import importlib.util
import os
import sys
from pathlib import Path

import typer

from orchestrator.cli.console import CommandError

ROOT = Path(__file__).parents[2]


def test(context: typer.Context) -> None:
    """Run the test-suite. Arguments go to pytest: [bold]test tests/unit -x[/]."""
    if not (ROOT / "tests").is_dir():
        raise CommandError(
            "The tests are not part of an installed package. Clone the repository and run ./assistantd test there."
        )
    if importlib.util.find_spec("pytest") is None:
        raise CommandError(
            "pytest is not installed. Run ./assistantd test, which installs it, or install the extra 'dev'."
        )
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *context.args])  # noqa: S606  # the point: become pytest
