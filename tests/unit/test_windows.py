"""Context windows: the operator is believed first, then the model server, then the table, then the default."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from orchestrator import windows
from orchestrator.embedded.model.catalogue import CATALOGUE
from orchestrator.embedded.model.engine import EngineOptions
from orchestrator.errors import Unavailable
from orchestrator.model import Delta, Prompt
from orchestrator.settings import Settings
from orchestrator.windows import Windows


def known(**settings: Any) -> Windows:
    environment = {"DATABASE_URL": "postgresql://x", "REDIS_URL": "redis://x", "UPSTREAM_BASE_URL": "http://x/v1"}
    return Windows(Settings.model_validate({**environment, **settings}))


@pytest.mark.parametrize(
    ("model", "window"),
    [
        ("gpt-4o-2024-08-06", 128_000),
        ("gpt-4", 8_192),
        ("gpt-4-0613", 8_192),
        ("gpt-4-turbo", 128_000),
        ("gpt-3.5-turbo", 16_385),
        ("ft:gpt-4o-mini-2024-07-18:acme::abc", 128_000),
        ("o3-mini", 200_000),
        ("Qwen/Qwen2.5-7B-Instruct", 32_768),
        ("meta-llama/Llama-3.1-8B-Instruct", 131_072),
        ("llama3.1:8b", 131_072),
        ("llama3:8b", 8_192),
        ("something-else", 128_000),
    ],
)
def test_well_known_families_are_known(model: str, window: int) -> None:
    assert known().of(model) == window


def test_the_embedded_models_have_the_window_that_their_server_gives_them() -> None:
    assert {known().of(model.id) for model in CATALOGUE.values()} == {EngineOptions().context}


def test_the_operator_is_believed_by_the_longest_name_and_for_all_that_is_unknown() -> None:
    told = known(context_windows={"my-": 10_000, "my-model": 20_000, "gpt-4o": 30_000}, context_window=5_000)
    told.learn([{"id": "my-model"}, {"id": "gpt-4o", "max_model_len": 40_000}])

    assert [told.of(name) for name in ("my-model-7b", "My-Other", "gpt-4o", "x")] == [20_000, 10_000, 30_000, 5_000]


@pytest.mark.parametrize(
    "told",
    [
        {"max_model_len": 9_000},
        {"context_length": 9_000},
        {"context_window": 9_000},
        {"max_context_length": 9_000},
        {"meta": {"n_ctx_train": 9_000}},
        {"meta": {"n_ctx": 9_000, "n_ctx_train": 99_000}},
    ],
)
def test_the_model_servers_own_word_goes_before_the_table(told: dict[str, Any]) -> None:
    believed = known()

    believed.learn([{"id": "gpt-4o", **told}, {"id": "gpt-4", "context_length": None, "meta": "?"}])

    assert (believed.of("gpt-4o"), believed.of("gpt-4")) == (9_000, 8_192)


def test_a_server_with_a_single_model_answers_every_name_with_it() -> None:
    believed = known()

    believed.learn([{"id": "local", "max_model_len": 4_096}])

    assert believed.of("gpt-4o") == 4_096


class Lists:
    """A model server whose list fails at first."""

    def __init__(self) -> None:
        self.asked = 0
        self.told = asyncio.Event()

    def stream(self, prompt: Prompt) -> AsyncGenerator[list[Delta], None]:
        """Nobody asks."""
        raise NotImplementedError

    async def retrieve(self, model_id: str) -> Any:
        """Nobody asks."""
        raise NotImplementedError

    async def models(self) -> list[Any]:
        """A list, from the second time on."""
        self.asked += 1
        if self.asked == 1:
            raise Unavailable("not yet")
        self.told.set()
        return [{"id": "a", "max_model_len": 7_000}]


async def test_the_list_is_asked_for_again_when_there_was_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "FIRST_RETRY", 0.001)
    learning, server = known(), Lists()
    task = asyncio.create_task(learning.keep_fresh(server))

    await asyncio.wait_for(server.told.wait(), 60)
    await asyncio.sleep(0)
    task.cancel()

    assert learning.of("a") == 7_000


async def test_without_a_model_server_nobody_is_asked() -> None:
    server = Lists()

    await asyncio.wait_for(known(UPSTREAM_BASE_URL=None).keep_fresh(server), 60)

    assert server.asked == 0
