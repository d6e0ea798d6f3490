"""`python -m workers worker …`, `python -m workers beat …`: Celery's own commands of these names, for our application.

`celery -A workers.app worker …` is the same with more around it: Celery's command line imports all of its commands, a
shell with completion among them, which every worker would keep in memory for nothing. Options, their environment
variables (`CELERY_WORKER_…`), exit codes and signals are Celery's; `workers.app` says what else they need not be told.

Where nobody looks at a terminal, what others import to paint on one is said not to be there: they all do without.
"""

import importlib
import sys
from typing import cast

from orchestrator.foreign import Json

COMMANDS = ("worker", "beat")
PAINTERS = ("rich", "pygments")
"""What structlog and Celery import if they can: 5 MB of a worker's memory."""


def without_painters() -> None:
    """Have further imports of these fail, as the import system promises it for a module that is None."""
    for name in PAINTERS:
        cast("dict[str, Json]", sys.modules).setdefault(name, None)


def command(name: str) -> Json:
    """Celery's command of this name, and nothing else of its command line."""
    return getattr(importlib.import_module(f"celery.bin.{name}"), name)


def main() -> None:
    """Be the worker, or beat, that the arguments describe."""
    name, arguments = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if name not in COMMANDS:
        sys.exit(f"Say what to start: {' or '.join(COMMANDS)}.")
    if not sys.stderr.isatty():
        without_painters()
    app = importlib.import_module("workers.app").app
    context = importlib.import_module("celery.bin.base").CLIContext(app=app, no_color=False, workdir=None, quiet=True)
    prefix = f"CELERY_{name.upper()}"
    command(name).main(arguments, f"assistantd {name}", obj=context, auto_envvar_prefix=prefix)


if __name__ == "__main__":
    main()
