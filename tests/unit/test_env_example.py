""".env.example: each of its lines can be used as it stands, alone or with all others."""

import re

import jsonschema_rs
import pytest

from orchestrator.settings import SECRETS_DIR, Settings
from tests.unit.deployment import ROOT, compose, schema

LINES = re.findall(r"^#([A-Z_]+)=(\S*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
SETTINGS = {
    str(field.validation_alias or f"ASSISTANTD_{name.upper()}") for name, field in Settings.model_fields.items()
}
GIVEN = {"DATABASE_URL": "postgresql://given", "REDIS_URL": "redis://given"}

EACH = pytest.mark.parametrize("chosen", [*([line] for line in LINES), LINES], ids=lambda chosen: chosen[-1][0])


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting comes from elsewhere, and what every process needs is there."""
    for name in (*SETTINGS, SECRETS_DIR):
        monkeypatch.delenv(name, raising=False)
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)


@EACH
def test_lines_that_are_uncommented_as_they_stand_are_valid(
    chosen: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in chosen:
        monkeypatch.setenv(name, value)
    filled = compose(**dict(chosen))

    Settings()
    assert jsonschema_rs.validator_for(schema("compose-spec")).is_valid(filled)


def test_empty_values_mean_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = Settings()
    for name in SETTINGS - set(GIVEN):
        monkeypatch.setenv(name, "")

    assert Settings() == defaults
    assert compose(**{name: "" for name, _ in LINES}) == compose()
