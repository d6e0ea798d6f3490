"""Does pgvector work here? Its wheels use wide instructions unguarded: an older CPU kills the backend by SIGILL."""

import asyncpg

from orchestrator.addresses import UNREADABLE, is_readable, told
from orchestrator.embedded.process import EmbeddedError

TIMEOUT = 10.0


async def probe_pgvector(database_url: str) -> str:
    """Compute one distance in the database and return pgvector's version; changes nothing.

    Raises EmbeddedError with what to do.
    """
    if not is_readable(database_url):
        raise EmbeddedError(f"DATABASE_URL {UNREADABLE}.")
    try:
        connection = await asyncpg.connect(database_url, timeout=TIMEOUT, command_timeout=TIMEOUT)
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise EmbeddedError(f"The database (DATABASE_URL) does not let us in ({told(error)}).") from error
    try:
        await connection.execute("begin")  # never committed: whether it can be installed is part of the question
        await connection.execute("create extension if not exists vector")
        await connection.fetchval("select '[1,2,3]'::vector <=> '[3,2,1]'")
        version: str = await connection.fetchval("select extversion from pg_extension where extname = 'vector'")
    except (asyncpg.FeatureNotSupportedError, asyncpg.UndefinedFileError, asyncpg.InsufficientPrivilegeError) as error:
        raise EmbeddedError(
            f"The database has no pgvector ({error}). Install it, or let an administrator run: CREATE EXTENSION vector."
        ) from error
    except (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError) as error:
        raise EmbeddedError(
            "pgvector crashed the database: the embedded build needs instructions that this CPU does not have "
            "(AVX2 and FMA on x86-64, SVE on ARM). Set DATABASE_URL to a Postgres with pgvector built for this machine."
        ) from error
    finally:
        connection.terminate()
    return version
