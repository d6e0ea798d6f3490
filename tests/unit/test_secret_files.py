"""`assistantd secrets`: what is made is kept, what is given is written, what is no longer given goes."""

import os
import sys
from pathlib import Path

import pytest

from orchestrator import cli
from orchestrator.cli.secret_files import secret_settings


@pytest.fixture
def into(tmp_path: Path) -> Path:
    for folder in ("assistantd", "postgres", "valkey"):
        (tmp_path / "secrets" / folder).mkdir(parents=True)
    return tmp_path / "secrets"


def secrets(monkeypatch: pytest.MonkeyPatch, into: Path, *arguments: str) -> int:
    """What the command leaves with."""
    monkeypatch.setattr(sys, "argv", ["assistantd", "secrets", "--into", str(into), *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def written(into: Path) -> dict[str, str]:
    return {str(path.relative_to(into)): path.read_text() for path in into.rglob("*") if path.is_file()}


def test_passwords_and_a_key_are_made_once_and_fit_together(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert secrets(monkeypatch, into) == 0
    first = written(into)
    assert secrets(monkeypatch, into) == 0

    assert written(into) == first
    assert first["assistantd/ASSISTANTD_API_KEY"].startswith("sk-asst-")
    assert f":{first['postgres/password']}@postgres:5432/" in first["assistantd/DATABASE_URL"]
    assert f":{first['valkey/password']}@valkey:6379/" in first["assistantd/REDIS_URL"]
    assert first["valkey/valkey.conf"] == f"requirepass {first['valkey/password']}\n"
    assert first["postgres/password"] != first["valkey/password"]
    assert min(map(len, first.values())) > 30


def test_secrets_of_a_file_are_written_and_removed_with_their_lines(
    into: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("UPSTREAM_API_KEY='sk-$up' # of the model server\nASSISTANTD_API_KEY=sk-own\nAPI_PORT=1\n")

    assert secrets(monkeypatch, into, "--from", str(dotenv)) == 0
    assert (into / "assistantd" / "UPSTREAM_API_KEY").read_text() == "sk-$up"
    assert (into / "assistantd" / "ASSISTANTD_API_KEY").read_text() == "sk-own"
    assert not (into / "assistantd" / "API_PORT").exists()

    dotenv.write_text("")
    assert secrets(monkeypatch, into, "--from", str(dotenv)) == 0
    assert not (into / "assistantd" / "UPSTREAM_API_KEY").exists()
    assert (into / "assistantd" / "ASSISTANTD_API_KEY").read_text() == "sk-own"  # the last one is kept


def test_a_secret_that_is_needed_and_missing_is_named(
    into: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert secrets(monkeypatch, into, "--from", str(tmp_path / ".env"), "--need", "DATABASE_URL") == 1
    assert "DATABASE_URL is missing. Set it in .env" in capsys.readouterr().err
    assert not written(into)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_an_error_and_not_overlooked(
    into: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dotenv = tmp_path / ".env"
    dotenv.touch(mode=0o000)

    assert secrets(monkeypatch, into, "--from", str(dotenv)) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_no_secret_is_printed(into: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    secrets(monkeypatch, into)

    said = "".join(capsys.readouterr())
    assert said.startswith("3 secrets are in place")
    assert not [value for value in written(into).values() if value in said]


def test_all_secret_settings_are_known() -> None:
    assert secret_settings() == {
        "DATABASE_URL",
        "REDIS_URL",
        "UPSTREAM_API_KEY",
        "ASSISTANTD_API_KEY",
        "ASSISTANTD_STORAGE_ACCESS_KEY_ID",
        "ASSISTANTD_STORAGE_SECRET_ACCESS_KEY",
        "ASSISTANTD_WEBHOOK_SECRET",
    }
