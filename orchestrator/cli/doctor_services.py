"""Doctor's checks of the services: database, broker, API, worker and model, wherever they run."""

import asyncio
import time
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import urlsplit

import asyncpg

from orchestrator.addresses import UNREADABLE, is_readable, told
from orchestrator.cli.console import hint
from orchestrator.cli.findings import Check, Finding, Patient, failed, ok, skipped
from orchestrator.echo import echo
from orchestrator.embedded.pgvector import probe_pgvector
from orchestrator.embedded.process import EmbeddedError
from orchestrator.embedded.upstream import is_address
from orchestrator.foreign import Json

TIMEOUT = 5.0
MODEL_TIMEOUT = 60.0
NOT_RUNNING = "no stack is running here"


class Schema(NamedTuple):
    """The database's version, and its schema's."""

    server: str
    revision: str | None
    head: str | None


def database(patient: Patient) -> Finding:
    """Whether the database lets us in, has pgvector, and is migrated."""
    if not patient.database_url:
        return skipped(NOT_RUNNING)
    try:
        vector = asyncio.run(probe_pgvector(patient.database_url))
        schema = asyncio.run(_schema(patient.database_url))
    except (EmbeddedError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return failed(str(error), patient.look("postgres", "DATABASE_URL"))
    found = f"Postgres {schema.server}, pgvector {vector}, schema {schema.revision or 'missing'}"
    if schema.revision != schema.head:
        return failed(
            f"{found}, expected {schema.head}", f"Run the migrations: {hint('migrate')} (up does it by itself)."
        )
    return ok(found)


def broker(patient: Patient) -> Finding:
    """Whether the broker answers, and keeps what it is given."""
    if not patient.redis_url:
        return skipped(NOT_RUNNING)
    if not is_readable(patient.redis_url):
        return failed(f"REDIS_URL {UNREADABLE}", patient.look("valkey", "REDIS_URL"))
    from redis import Redis, RedisError

    try:
        with Redis.from_url(patient.redis_url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT) as redis:
            server = redis.info("server")
            policy = redis.info("memory").get("maxmemory_policy", "noeviction")
    except (RedisError, OSError, ValueError) as error:
        return failed(f"no answer ({told(error)})", patient.look("valkey", "REDIS_URL"))
    name = "Valkey" if server.get("server_name") == "valkey" else "Redis"
    found = f"{name} {server.get('valkey_version') or server.get('redis_version')}"
    if policy != "noeviction":
        return failed(
            f"{found} throws data away ({policy})", "Set maxmemory-policy to noeviction: the queue lives there."
        )
    return ok(found)


def api(patient: Patient) -> Finding:
    """Whether the API is ready."""
    if not patient.api_url:
        return skipped(NOT_RUNNING)
    import http.client

    target = urlsplit(patient.api_url)
    connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        body = response.read(500).decode(errors="replace")
    except OSError as error:
        return failed(f"no answer at {patient.api_url} ({error})", f"Look at {patient.home.logs}/api.log.")
    finally:
        connection.close()
    if response.status != HTTPStatus.OK:
        return failed(f"not ready: {body}", f"Look at {patient.home.logs}/api.log.")
    return ok(f"ready at {patient.api_url}")


def worker(patient: Patient) -> Finding:
    """Whether a Celery worker answers."""
    if not patient.redis_url:
        return skipped(NOT_RUNNING)
    if not is_readable(patient.redis_url):
        return skipped("there is no broker to ask it by")
    from orchestrator.embedded.stack import ping_workers

    names = ping_workers(patient.redis_url)
    if not names:
        return failed(
            "none answers", f"If the broker works, start one: {hint('worker')}. If one runs, look at its log."
        )
    return ok(", ".join(names))


def model(patient: Patient) -> Finding:
    """Whether the model server generates a token."""
    if not patient.upstream_url:
        if patient.api_url:
            return failed("none", "Set UPSTREAM_BASE_URL to a model server, or start without --no-model.")
        return skipped(NOT_RUNNING)
    if not is_address(patient.upstream_url):
        return failed("UPSTREAM_BASE_URL is no address like http://127.0.0.1:8000/v1", "Correct or unset it.")
    import openai

    client = openai.OpenAI(
        base_url=patient.upstream_url, api_key=patient.upstream_key, timeout=MODEL_TIMEOUT, max_retries=0
    )
    begin = time.monotonic()
    try:
        name = next(iter(client.models.list())).id
        client.chat.completions.create(model=name, messages=[{"role": "user", "content": "Say yes."}], max_tokens=1)
    except StopIteration:
        return failed(f"{patient.upstream_url} offers no model", "Load one there.")
    except openai.AuthenticationError:
        return failed(f"{patient.upstream_url} does not accept the key", "Set UPSTREAM_API_KEY.")
    except openai.OpenAIError as error:
        return failed(f"{patient.upstream_url}: {error}", patient.look("model", "UPSTREAM_BASE_URL"))
    return ok(f"{name} answers in {time.monotonic() - begin:.1f} s")


def storage(patient: Patient) -> Finding:
    """Whether bytes that are written to the storage can be read again, and removed."""
    if not patient.storage_url:
        return skipped(NOT_RUNNING)
    from pydantic import SecretStr, ValidationError

    from orchestrator.settings import Settings
    from orchestrator.storage import MissingBytesError, StorageError, opening

    shown = echo(patient.storage_url, 200)
    try:
        settings = Settings(
            DATABASE_URL=SecretStr(""),
            REDIS_URL=SecretStr(""),
            storage_url=patient.storage_url,
            storage_timeout=TIMEOUT,
        )
        with opening.opened(settings) as opened:
            asyncio.run(opening.probe(opened))
    except ValidationError as error:
        wrong = ", ".join(sorted({_wrong(each) for each in error.errors()}))
        return failed(f"the settings are wrong: {wrong}", "An address is file:///folder or s3://bucket/prefix.")
    except StorageError as error:
        return failed(f"{shown}: {error.reason}", "Check ASSISTANTD_STORAGE_URL, and who may write there.")
    except MissingBytesError:
        return failed(f"{shown} does not give back what was written", "Check that nothing else removes files there.")
    return ok(f"{shown} takes files and gives them back")


def _wrong(error: Json) -> str:
    """The setting that an error is about, or what it says about several. It never quotes a value."""
    place = error["loc"]
    return f"ASSISTANTD_{str(place[0]).upper()}" if place else str(error["msg"]).removeprefix("Value error, ")


async def _schema(database_url: str) -> Schema:
    connection = await asyncpg.connect(database_url, timeout=TIMEOUT, command_timeout=TIMEOUT)
    try:
        server = str(await connection.fetchval("show server_version")).split()[0]
        known = await connection.fetchval("select to_regclass('alembic_version') is not null")
        revision = await connection.fetchval("select version_num from alembic_version") if known else None
    finally:
        await connection.close(timeout=TIMEOUT)
    return Schema(server, revision, _head())


def _head() -> str | None:
    """The newest schema that this version knows."""
    from alembic.script import ScriptDirectory

    from orchestrator.migrate import SCRIPTS

    return ScriptDirectory(SCRIPTS).get_current_head()


CHECKS: dict[str, Check] = {
    "database": database,
    "broker": broker,
    "storage": storage,
    "api": api,
    "worker": worker,
    "model": model,
}
