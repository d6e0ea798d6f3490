"""Bring the database to this release's schema, and register the deployment's own key.

Safe to start from several places at once: migrations run under an advisory lock. A schema of a later release is left
alone: its migrations are such that this one can work with it, and so whoever goes back has nothing else to do.
"""

from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

from orchestrator import db, projects
from orchestrator.migrations import HEAD, serves
from orchestrator.presence import LOCK_CLASS
from orchestrator.settings import Settings

log = structlog.get_logger(__name__)

SCRIPTS = Path(__file__).parent / "migrations"
LOCK_NUMBER = -1


async def migrate(settings: Settings) -> None:
    """Upgrade to the newest schema and make `settings.api_key`, if given, a key of the default project."""
    engine = db.engine(settings, patient=True)
    try:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:a, :b)"), {"a": LOCK_CLASS, "b": LOCK_NUMBER})
            await connection.run_sync(_upgrade)
        if settings.api_key is not None:
            async with db.Session(engine) as session, session.begin():
                await projects.register(session, settings.api_key.get_secret_value())
    finally:
        await engine.dispose()


def configuration(connection: Connection | None = None) -> Config:
    """Alembic's configuration: our scripts, and the connection to use if there is one."""
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection) -> None:
    found = MigrationContext.configure(connection).get_current_revision()
    if found != HEAD and serves(found):
        log.warning("schema_of_a_later_release", found=found, ours=HEAD)
        return
    command.upgrade(configuration(connection), "head")
