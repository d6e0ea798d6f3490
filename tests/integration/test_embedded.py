"""The embedded servers: started, stopped, killed, started again, and never twice on the same data."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from redis import Redis

from orchestrator.embedded import postgres as postgres_module
from orchestrator.embedded import valkey as valkey_module
from orchestrator.embedded.pgvector import probe_pgvector
from orchestrator.embedded.postgres import Postgres
from orchestrator.embedded.process import StartError
from orchestrator.embedded.valkey import Valkey
from tests.integration.clusters import postgres_on

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other accounts can walk through: as root, Postgres may run as one."""
    path = Path(tempfile.mkdtemp(prefix="assistantd-test-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def postgres(folder: Path) -> Iterator[Postgres]:
    server = Postgres(postgres_on(folder), durable=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def valkey(folder: Path) -> Iterator[Valkey]:
    server = Valkey(folder / "valkey")
    server.start()
    yield server
    server.stop()


async def query(server: Postgres, statement: str) -> object:
    connection = await asyncpg.connect(server.url, timeout=10)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close(timeout=10)


def killed(server: Postgres | Valkey) -> None:
    """End the server as a power cut would."""
    process = server.process
    assert process is not None
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait_end(10)


async def test_postgres_finds_its_data_again_after_a_stop_and_after_a_kill(postgres: Postgres) -> None:
    await query(postgres, "create table facts (fact text)")
    await query(postgres, "insert into facts values ('kept')")

    postgres.stop()
    postgres.start()
    after_stop = await query(postgres, "select fact from facts")
    killed(postgres)
    postgres.start()
    after_kill = await query(postgres, "select fact from facts")

    assert (after_stop, after_kill) == ("kept", "kept")


async def test_postgres_has_pgvector_unicode_order_and_utc(postgres: Postgres) -> None:
    version = await probe_pgvector(postgres.url)

    assert version >= "0.8"
    assert await query(postgres, "select upper('ä')") == "Ä"
    assert await query(postgres, "show timezone") == "UTC"
    assert await query(postgres, "select count(*) from pg_extension where extname = 'vector'") == 0


async def test_postgres_lets_nobody_in_without_the_password(postgres: Postgres) -> None:
    without = postgres.url.replace(postgres.url.split(":")[2].split("@")[0], "guess")

    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(without, timeout=10)

    assert (postgres.data_dir / "password").stat().st_mode & 0o777 == 0o600
    assert postgres.data_dir.stat().st_mode & 0o777 == 0o700


def test_a_second_postgres_on_the_same_data_is_refused(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_module, "LOCK_WAIT", 0.1)

    with pytest.raises(StartError, match="another process serves the same data"):
        Postgres(postgres.data_dir, durable=False).start()

    assert postgres.process is not None
    assert postgres.process.exit_code() is None


def test_postgres_starts_over_an_initdb_that_was_killed_half_way(folder: Path) -> None:
    half = folder / "postgres" / "cluster.new"
    half.mkdir(parents=True, mode=0o700)
    (half / "PG_VERSION").write_text("18\n")
    server = Postgres(folder / "postgres", durable=False)

    try:
        server.start()
    finally:
        server.stop()

    assert not half.exists()


def test_postgres_starts_although_a_dead_one_s_process_id_was_given_to_another_program(postgres: Postgres) -> None:
    postgres.stop()
    (postgres.cluster / "postmaster.pid").write_text(f"{os.getpid()}\n{postgres.cluster}\n0\n5432\n\n\n\nready\n")

    postgres.start()

    assert postgres.process is not None
    assert postgres.process.exit_code() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_root_without_user_namespaces_runs_postgres_as_another_account(folder: Path) -> None:
    server = Postgres(folder / "postgres", durable=False, mode="setuid")

    try:
        server.start()
        assert server.process is not None
        uid = psutil.Process(server.process.pid).uids().real
    finally:
        server.stop()

    assert uid != 0
    assert server.data_dir.stat().st_uid == uid


def test_valkey_finds_its_data_again_after_a_stop_and_after_a_kill(valkey: Valkey) -> None:
    with Redis.from_url(valkey.url) as redis:
        redis.set("fact", "kept")

    valkey.stop()
    valkey.start()
    with Redis.from_url(valkey.url) as redis:
        after_stop = redis.get("fact")
        redis.set("later", "kept")
        redis.execute_command("WAITAOF", 1, 0, 5000)  # the append-only file is written each second
    killed(valkey)
    valkey.start()

    with Redis.from_url(valkey.url) as redis:
        assert (after_stop, redis.get("later")) == (b"kept", b"kept")


def test_a_second_valkey_on_the_same_data_is_refused(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valkey_module, "LOCK_WAIT", 0.1)

    with pytest.raises(StartError, match="another process serves the same data"):
        Valkey(valkey.data_dir).start()

    with Redis.from_url(valkey.url) as redis:
        assert redis.ping()


def test_no_password_is_visible_in_the_list_of_processes(postgres: Postgres, valkey: Valkey) -> None:
    for server in (postgres, valkey):
        assert server.process is not None
        password = (server.data_dir / "password").read_text()
        assert password not in " ".join(psutil.Process(server.process.pid).cmdline())


STARTER = """
import sys, time
from pathlib import Path
from orchestrator.embedded.postgres import Postgres
from orchestrator.embedded.valkey import Valkey
from tests.integration.clusters import postgres_on
servers = [Postgres(Path(sys.argv[1], "postgres"), durable=False), Valkey(Path(sys.argv[1], "valkey"))]
for server in servers:
    server.start()
print("started", flush=True)
time.sleep(600)
"""


def test_servers_end_when_whoever_started_them_is_killed(folder: Path) -> None:
    postgres_on(folder)
    argv = [sys.executable, "-P", "-c", STARTER, str(folder)]
    with subprocess.Popen(
        argv, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "started\n"
        servers = psutil.Process(starter.pid).children(recursive=True)

        starter.kill()
        _, alive = psutil.wait_procs(servers, timeout=20)

    assert len(servers) > 2
    assert alive == []
