"""Statements that go to Postgres directly: values come and go as they are, and a lost connection is made anew."""

import asyncio
import errno

import asyncpg
import pytest

from orchestrator import db
from orchestrator.settings import Settings


async def test_json_goes_and_comes_as_values(bare_settings: Settings) -> None:
    value = {"z": [1, None, "ü"], "a": {"b": 1.5}}
    async with db.direct(bare_settings).opened() as direct:
        (row,) = await direct.fetch("SELECT $1::json AS kept, $2::jsonb AS read", value, value)

    assert list(row["kept"]) == ["z", "a"]
    assert row["read"] == value


async def test_more_statements_than_connections_take_turns(bare_settings: Settings) -> None:
    async with db.direct(bare_settings).opened() as direct:
        answers = await asyncio.gather(*(direct.fetch("SELECT $1::int AS it", number) for number in range(50)))

    assert [row["it"] for (row,) in answers] == list(range(50))


async def test_a_connection_that_was_lost_passes_and_is_made_anew(bare_settings: Settings) -> None:
    async with db.direct(bare_settings).opened() as direct:
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)) as lost:
            await direct.fetch("SELECT pg_terminate_backend(pg_backend_pid())")
        (row,) = await direct.fetch("SELECT 1 AS it")

    assert db.passes(lost.value)
    assert row["it"] == 1


async def test_a_database_that_is_away_passes(bare_settings: Settings) -> None:
    nowhere = bare_settings.database_url.__class__("postgresql://nobody:secret@127.0.0.1:1/none")
    away = bare_settings.model_copy(update={"database_url": nowhere})
    async with db.direct(away).opened() as direct:
        with pytest.raises(ConnectionRefusedError) as trouble:
            await direct.fetch("SELECT 1")

    assert db.passes(trouble.value)
    assert "secret" not in db.describe(trouble.value)


async def test_a_wrong_statement_does_not_pass(bare_settings: Settings) -> None:
    async with db.direct(bare_settings).opened() as direct:
        with pytest.raises(asyncpg.PostgresError) as wrong:
            await direct.fetch("SELECT nothing FROM nowhere")

    assert not db.passes(wrong.value)
    assert db.describe(wrong.value) == "UndefinedTableError 42P01"


@pytest.mark.parametrize(
    "trouble",
    [
        OSError("Multiple exceptions: refused at ::1, refused at 127.0.0.1"),
        OSError(errno.EHOSTUNREACH, "No route to host"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),  # the socket of a Postgres that is stopped
    ],
)
async def test_a_database_that_cannot_be_reached_passes_whatever_the_reason(
    bare_settings: Settings, monkeypatch: pytest.MonkeyPatch, trouble: OSError
) -> None:
    async def unreachable(*_: object, **__: object) -> None:
        raise trouble

    monkeypatch.setattr(asyncpg, "connect", unreachable)
    engine = db.engine(bare_settings)
    async with db.direct(bare_settings).opened() as direct:
        with pytest.raises(ConnectionError) as on_the_short_way:
            await direct.fetch("SELECT 1")
        with pytest.raises(ConnectionError) as on_the_long_way:
            async with engine.connect():
                pass
    await engine.dispose()

    assert db.passes(on_the_short_way.value)
    assert db.passes(on_the_long_way.value)
