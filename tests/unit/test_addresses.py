"""Addresses with passwords: which are understood alike by all who read them; commands never quote a piece of one."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator import cli
from orchestrator.addresses import is_readable, told
from orchestrator.cli import doctor_services, health
from orchestrator.cli.console import CommandError
from orchestrator.cli.findings import Check, Patient
from orchestrator.embedded.given import probe_broker
from orchestrator.embedded.home import Home
from orchestrator.embedded.process import EmbeddedError
from orchestrator.foreign import Json

CUT = "://u:s3cr/et@127.0.0.1:1/0"


@pytest.mark.parametrize(
    "password", ["s3cr/et", "s3cr?et", "s3cr#et", "s3cr[et", "s3cr℀et", "123/et", "/et", "a@s3:cr/et"]
)
def test_a_password_that_cuts_the_address_is_noticed(password: str) -> None:
    assert not is_readable(f"redis://u:{password}@127.0.0.1:6379/0")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "postgresql://u:s3cr%2Fet@127.0.0.1:5432/db",
        "postgresql://u@server:s3cr@127.0.0.1/db",
        "postgresql://u:s3cret@[::1]:5432/db?application_name=a@b",
        "postgresql:///db?host=/run/postgres&user=a@b",
        "redis://:s3cr@et@127.0.0.1:6379/0",
        "unix:///run/a@b.sock",
    ],
)
def test_addresses_that_work_are_not_refused(url: str) -> None:
    assert is_readable(url)


def test_of_errors_that_may_quote_the_address_only_the_kind_is_told() -> None:
    assert told(ValueError("'s3cr'")) == "ValueError"
    assert told(ConnectionError("refused")) == "refused"
    assert told(TimeoutError()) == "TimeoutError"


@pytest.mark.parametrize("check", [doctor_services.database, doctor_services.broker, doctor_services.worker])
def test_doctor_does_not_quote_a_password(tmp_path: Path, check: Check) -> None:
    patient = Patient(Home(tmp_path), "", "", f"postgresql{CUT}", f"redis{CUT}", "", "")

    finding = check(patient)

    assert finding.verdict != "ok"
    assert "s3cr" not in finding.text + finding.advice


def test_up_does_not_quote_a_password() -> None:
    with pytest.raises(EmbeddedError, match="REDIS_URL cannot be read") as refused:
        probe_broker(f"redis{CUT}")

    assert "s3cr" not in str(refused.value)


@pytest.mark.parametrize("command", [["health", "worker"], ["migrate"], ["run", "list"]])
def test_no_command_quotes_a_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    from orchestrator.settings import get_settings

    get_settings.cache_clear()
    monkeypatch.setenv("DATABASE_URL", f"postgresql{CUT}")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setattr("sys.argv", ["assistantd", *command])

    with pytest.raises(SystemExit) as end:
        cli.main()

    said = capsys.readouterr()
    assert end.value.code == 2
    assert "DATABASE_URL" in said.err
    assert "s3cr" not in said.out + said.err


def test_health_shows_no_text_that_may_quote_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    async def misread(*_: Json) -> float:
        raise ValueError("invalid literal for int() with base 10: 's3cr'")

    monkeypatch.setattr(health, "_last_word", misread)
    known = {"DATABASE_URL": "postgresql://u@127.0.0.1:1/db", "REDIS_URL": "redis://127.0.0.1:1/0"}

    result = CliRunner().invoke(cli.app, ["health", "worker"], env=known)

    assert isinstance(result.exception, CommandError)
    assert result.exception.detail == ""
    assert str(result.exception) == "The database cannot be asked (ValueError)."
