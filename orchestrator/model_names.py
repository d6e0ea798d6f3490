"""Which models assistants and runs may name. Known from the settings alone: no request waits for the model server.

Models that are known to do something else than converse are refused by name, as the original refused them. A list of
the allowed ones, if the operator gives one, refuses all others. Otherwise any name is taken, and a run whose model the
upstream does not have fails.
"""

import re
from fnmatch import translate
from functools import lru_cache

from orchestrator.echo import echo
from orchestrator.errors import InvalidRequest
from orchestrator.settings import Settings

SHOWN = 256


def check(settings: Settings, name: str | None) -> None:
    """Raise InvalidRequest if an assistant or a run cannot have this model. None says nothing about it."""
    if name is None:
        return
    if _matches(name, settings.unusable_models):
        message = f"The requested model '{echo(name, SHOWN)}' cannot be used with the Assistants API."
        raise InvalidRequest(message, param="model", code="unsupported_model")
    if settings.usable_models and not _matches(name, settings.usable_models):
        message = f"The requested model '{echo(name, SHOWN)}' does not exist."
        raise InvalidRequest(message, param="model", code="model_not_found")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return bool(patterns) and _one_of(patterns).fullmatch(name) is not None


@lru_cache(maxsize=16)
def _one_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """All shell patterns in one: each request that names a model is held against them."""
    return re.compile("|".join(map(translate, patterns)))
