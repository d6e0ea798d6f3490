"""The single processes: API, worker, beat and migrations. Each is configured by environment variables only."""

import asyncio
import importlib
import os
import sys
from pathlib import Path
from typing import NoReturn

import typer

from orchestrator.cli.console import CommandError
from orchestrator.open_files import allow_many

PACKAGES = Path(__file__).parents[2]


def api() -> None:
    """Serve the HTTP API on ASSISTANTD_API_HOST and ASSISTANTD_API_PORT."""
    from orchestrator.embedded.upstream import refuse_ourselves
    from orchestrator.logs import configure
    from orchestrator.settings import get_settings

    settings = get_settings()
    configure(settings)
    refuse_ourselves(settings.upstream_base_url, host=settings.api_host, port=settings.api_port)
    allow_many()  # each listener to a stream holds a connection
    # By name, as Celery finds its application: the orchestrator imports neither edge.
    importlib.import_module("api.server").serve(settings)


def worker(context: typer.Context) -> None:
    """Carry out runs. Further arguments go to Celery's worker."""
    from orchestrator.embedded.stack import worker_name

    # Pool and concurrency come from workers.app, which also says why workers need not know each other.
    alone = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    allow_many()  # each run at work holds a connection to the model server
    _become_celery("worker", "-n", worker_name(os.getpid()), *alone, *context.args)


def beat(context: typer.Context) -> None:
    """Start what is due by the clock (run exactly one). Further arguments go to Celery's beat."""
    _become_celery("beat", *context.args)


def migrate() -> None:
    """Bring the database to this version, and register ASSISTANTD_API_KEY if it is set."""
    from alembic.util import CommandError as SchemaError
    from sqlalchemy.exc import DBAPIError

    from orchestrator.logs import configure
    from orchestrator.migrate import migrate as bring_up_to_date
    from orchestrator.settings import get_settings

    settings = get_settings()
    configure(settings)
    try:
        asyncio.run(bring_up_to_date(settings))
    except (OSError, DBAPIError, SchemaError) as error:  # the last: its schema is another program's
        reason = str(getattr(error, "orig", None) or error) or type(error).__name__
        raise CommandError("The database could not be brought to this version.", reason) from error


def _become_celery(command: str, *arguments: str) -> NoReturn:
    """Replace this process, so that signals and exit codes are Celery's own."""
    from orchestrator.settings import get_settings

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PACKAGES), os.environ.get("PYTHONPATH")]))
    level = get_settings().log_level
    argv = ["-P", "-m", "workers", command, "--loglevel", level, *arguments]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *argv])  # noqa: S606  # the point: become that program
