"""How many tokens fit into a model's context window: prompt and answer together.

Who is believed, in this order:

1. the operator: `ASSISTANTD_CONTEXT_WINDOWS`, by name or by the longest prefix of it;
2. the model server, if its list of models tells (vLLM, llama.cpp, OpenRouter, Groq, Mistral and our embedded one do). A
   server that lists a single model answers every name with it;
3. the table of well-known families below;
4. `ASSISTANTD_CONTEXT_WINDOW`, for all others.

The list is fetched beside the runs, never for one: nobody waits for it, and until it is there the table counts.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import Final

import structlog

from orchestrator.errors import Unavailable
from orchestrator.foreign import Json
from orchestrator.model import Model
from orchestrator.settings import Settings
from orchestrator.tokens import family

log = structlog.get_logger(__name__)

MAX_AGE: Final = 300.0
"""Seconds after which the model server is asked again."""
FIRST_RETRY: Final = 5.0
NAMES: Final = 1000
"""Names of models for which an answer is kept."""
_FIELDS: Final = ("max_model_len", "context_length", "context_window", "max_context_length")
_META_FIELDS: Final = ("n_ctx", "n_ctx_train")

_FAMILIES: Final = {
    "gpt-5": 272_000,  # of the prompt alone; its answers have room of their own
    "gpt-5-chat": 128_000,
    "gpt-4.1": 1_047_576,
    "gpt-4.5": 128_000,
    "gpt-4o": 128_000,
    "chatgpt-4o": 128_000,
    "gpt-4-turbo": 128_000,
    "gpt-4-1106": 128_000,
    "gpt-4-0125": 128_000,
    "gpt-4-vision": 128_000,
    "gpt-4-32k": 32_768,
    "gpt-4": 8_192,
    "gpt-3.5-turbo": 16_385,
    "gpt-oss": 131_072,
    "o1": 200_000,
    "o1-mini": 128_000,
    "o1-preview": 128_000,
    "o3": 200_000,
    "o4": 200_000,
    "claude": 200_000,
    "gemini": 1_000_000,
    "gemma": 8_192,
    "gemma-3": 131_072,
    "gemma-3-1b": 32_768,
    "llama-2": 4_096,
    "llama-3": 8_192,
    "llama-3.1": 131_072,
    "llama-3.2": 131_072,
    "llama-3.3": 131_072,
    "llama-4": 131_072,
    "codellama": 16_384,
    "mistral": 32_768,
    "mistral-large": 131_072,
    "mistral-medium": 131_072,
    "mistral-small": 131_072,
    "mistral-nemo": 131_072,
    "ministral": 131_072,
    "mixtral": 32_768,
    "mixtral-8x22b": 65_536,
    "codestral": 32_768,
    "qwen": 32_768,
    "qwen-3-coder": 262_144,
    "qwq": 32_768,
    "deepseek": 65_536,
    "phi-3": 4_096,
    "phi-3.5": 131_072,
    "phi-4": 16_384,
    "command-r": 131_072,
    "grok": 131_072,
    "kimi": 131_072,
    "glm-4": 131_072,
    "smollm2": 8_192,
    # the embedded ones, as `assistantd model serve` serves them unless told otherwise
    "qwen2.5-coder-0.5b-instruct": 4_096,
    "qwen2.5-coder-1.5b-instruct": 4_096,
    "smollm2-135m-instruct": 4_096,
}


class Windows:
    """What is known of the windows of the models behind us."""

    def __init__(self, settings: Settings) -> None:
        self._given = {name.lower(): size for name, size in settings.context_windows.items()}
        self._default = settings.context_window
        self._can_ask = bool(settings.upstream_base_url)
        self._listed: dict[str, int | None] = {}
        self._answers: dict[str, int] = {}

    def of(self, model: str) -> int:
        """The window of a model. Each run asks, so what was said of a name is kept."""
        if (known := self._answers.get(model)) is not None:
            return known
        if len(self._answers) >= NAMES:
            self._answers.clear()  # they come from clients
        found = self._answers[model] = self._find(model)
        return found

    def _find(self, model: str) -> int:
        return (
            _longest_prefix(self._given, model.lower())
            or self._told(model)
            or _longest_prefix(_PLAIN_FAMILIES, _plain(family(model)))
            or self._default
        )

    def learn(self, models: list[Json]) -> None:
        """Believe the model server's list, and nothing that it said before."""
        self._listed = {model["id"]: _size(model) for model in models}
        self._answers.clear()

    async def keep_fresh(self, model: Model) -> None:
        """Ask the model server for its list again and again. A server that has none is asked ever more rarely."""
        retry = FIRST_RETRY
        while self._can_ask:
            try:
                self.learn(await model.models())
            except Unavailable:  # whoever lists models has logged why
                await asyncio.sleep(retry)
                retry = min(2 * retry, MAX_AGE)
                continue
            log.debug("context_windows_learnt", models=sum(size is not None for size in self._listed.values()))
            retry = FIRST_RETRY
            await asyncio.sleep(MAX_AGE)

    def _told(self, model: str) -> int | None:
        if len(self._listed) == 1:
            return next(iter(self._listed.values()))
        return self._listed.get(model)


def _size(model: Json) -> int | None:
    meta = model.get("meta")
    told = [model.get(field) for field in _FIELDS]
    told += [meta.get(field) for field in _META_FIELDS] if isinstance(meta, dict) else []
    return next((size for size in told if type(size) is int and size > 0), None)


def _longest_prefix(table: Mapping[str, int], name: str) -> int | None:
    known = max((prefix for prefix in table if name.startswith(prefix)), key=len, default=None)
    return None if known is None else table[known]


def _plain(name: str) -> str:
    """Without what vendors write differently: llama3.1, Llama-3.1 and llama-3_1 are one."""
    return re.sub(r"[-_.:\s]", "", name)


_PLAIN_FAMILIES: Final = {_plain(name): size for name, size in _FAMILIES.items()}
