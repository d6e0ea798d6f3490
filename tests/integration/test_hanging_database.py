"""A Postgres that takes statements and says nothing: nobody waits longer for it than was said."""

import pytest

from orchestrator import db
from orchestrator.foreign import Json
from orchestrator.settings import Settings
from tests.fakes.proxy import Proxy


class Released:
    """A pool that notes whether what it gets back is closed already, and nothing is left to wait for."""

    def __init__(self, pool: Json) -> None:
        self._pool = pool
        self.free, self.wait, self.close = pool.free, pool.wait, pool.close
        self.closed: list[bool] = []

    def give_back(self, connection: Json) -> None:
        self.closed.append(connection.is_closed())
        self._pool.give_back(connection)


async def test_a_database_that_hangs_is_waited_for_once(
    bare_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy.before(bare_settings.database_url.get_secret_value()) as proxy:
        url = bare_settings.database_url.__class__(proxy.url)
        slow = bare_settings.model_copy(update={"database_url": url, "database_timeout": 1.0})
        async with db.direct(slow).opened() as direct:
            pool = Released(direct._pool)
            monkeypatch.setattr(direct, "_pool", pool)
            await direct.fetch("SELECT 1")
            proxy.set_mode("blackhole")
            with pytest.raises(TimeoutError) as trouble:
                await direct.fetch("SELECT 1")
            proxy.set_mode("pass")
            (row,) = await direct.fetch("SELECT 1 AS it")

    assert db.passes(trouble.value)
    assert pool.closed == [False, True, False]
    assert row["it"] == 1
