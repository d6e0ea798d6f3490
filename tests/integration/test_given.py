"""Parts that the operator runs: an address that is wrong is told in one sentence, and without its password."""

import pytest

from orchestrator.embedded.given import probe_broker
from orchestrator.embedded.pgvector import probe_pgvector
from orchestrator.embedded.process import EmbeddedError, free_port


@pytest.mark.parametrize("url", ["nonsense", "redis://:secret@127.0.0.1:{port}/0", "redis://:secret@127.0.0.1:abc/0"])
def test_a_broker_that_does_not_answer_is_named(url: str) -> None:
    with pytest.raises(EmbeddedError, match="REDIS_URL") as caught:
        probe_broker(url.format(port=free_port()))

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["nonsense", "postgresql://u:secret@127.0.0.1:{port}/x", "mysql://u:secret@host:abc/x"])
async def test_a_database_that_does_not_answer_is_named(url: str) -> None:
    with pytest.raises(EmbeddedError, match="DATABASE_URL") as caught:
        await probe_pgvector(url.format(port=free_port()))

    assert "secret" not in str(caught.value)
