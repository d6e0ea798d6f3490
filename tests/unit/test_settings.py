"""Settings that come as files, as containers get their secrets."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from orchestrator.settings import RUN_LEASE, SECRETS_DIR, Settings, given


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DATABASE_URL", "REDIS_URL", "UPSTREAM_API_KEY", "ASSISTANTD_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(SECRETS_DIR, str(tmp_path))
    (tmp_path / "DATABASE_URL").write_text("postgresql://from-a-file\n")
    (tmp_path / "REDIS_URL").write_text("redis://from-a-file")
    return tmp_path


def test_secrets_are_read_from_the_files_of_a_folder(folder: Path) -> None:
    (folder / "UPSTREAM_API_KEY").write_text("sk-upstream\n")

    settings = Settings()

    assert settings.database_url.get_secret_value() == given("DATABASE_URL") == "postgresql://from-a-file"
    assert settings.redis_url.get_secret_value() == "redis://from-a-file"
    assert settings.upstream_api_key is not None
    assert settings.upstream_api_key.get_secret_value() == "sk-upstream"
    assert settings.api_key is None
    assert given("ASSISTANTD_API_KEY") is None


def test_the_environment_overrules_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://from-the-environment")

    assert Settings().database_url.get_secret_value() == given("DATABASE_URL") == "postgresql://from-the-environment"


def test_what_is_missing_from_both_is_named(folder: Path) -> None:
    (folder / "REDIS_URL").unlink()

    with pytest.raises(ValidationError, match="REDIS_URL"):
        Settings()


def test_what_is_empty_is_not_set_wherever_it_stands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "UPSTREAM_API_KEY").write_text("\n")
    (folder / "ASSISTANTD_RUN_LEASE").write_text("")
    monkeypatch.setenv("DATABASE_URL", "")

    settings = Settings()

    assert settings.database_url.get_secret_value() == given("DATABASE_URL") == "postgresql://from-a-file"
    assert settings.upstream_api_key is None
    assert given("UPSTREAM_API_KEY") is None
    assert settings.run_lease == RUN_LEASE


@pytest.mark.parametrize("name", ["usable_models", "unusable_models", "context_windows"])
def test_what_should_be_json_and_is_not_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"ASSISTANTD_{name.upper()}", "gpt-*")

    with pytest.raises(ValidationError, match="expected JSON") as told:
        Settings()

    assert [each["loc"] for each in told.value.errors()] == [(name,)]


def test_lists_and_tables_are_json(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSISTANTD_USABLE_MODELS", '["gpt-*", "o3"]')
    (folder / "ASSISTANTD_CONTEXT_WINDOWS").write_text('{"o3": 2048}')

    settings = Settings()

    assert settings.usable_models == ("gpt-*", "o3")
    assert settings.context_windows == {"o3": 2048}


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL"])
def test_an_address_with_a_password_that_is_not_encoded_is_refused_without_a_word_of_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "postgresql://u:s3cr/et@127.0.0.1/db")

    with pytest.raises(ValidationError, match="percent-encoded") as wrong:
        Settings()

    assert [each["loc"] for each in wrong.value.errors()] == [(name,)]
    assert "s3cr" not in str(wrong.value)
