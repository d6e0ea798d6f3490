"""The command line's manners: help, errors in one sentence, results alone on standard output."""

import socket
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator import cli
from orchestrator.cli.up import up
from orchestrator.embedded.home import Home, State

COMMANDS = (
    "up",
    "env",
    "demo",
    "doctor",
    "test",
    "api",
    "worker",
    "beat",
    "migrate",
    "model",
    "run",
    "health",
    "secrets",
)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """What `main` leaves with."""
    monkeypatch.setattr(sys, "argv", ["assistantd", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)])
def test_every_command_explains_itself(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli.app, [*arguments, "--help"])

    assert result.exit_code == 0
    assert "Usage" in result.output


def test_env_prints_the_exports_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path / "data")
    home.create()
    home.acquire()
    home.record(State(1, "http://127.0.0.1:8300/v1", "sk-asst-x", "ready"))

    code = run(monkeypatch, "env", "--data", str(home.root))
    home.release()

    assert code == 0
    assert capsys.readouterr().out == "export OPENAI_BASE_URL=http://127.0.0.1:8300/v1 OPENAI_API_KEY=sk-asst-x\n"


def test_env_without_a_stack_fails_on_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(monkeypatch, "env", "--data", str(tmp_path / "nothing"))

    said = capsys.readouterr()
    assert code == 1
    assert said.out == ""


def test_env_in_a_container_tells_the_public_address_and_the_key_of_the_deployment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ASSISTANTD_API_KEY").write_text("sk-asst-y\n")
    monkeypatch.delenv("ASSISTANTD_API_KEY", raising=False)
    monkeypatch.setenv("ASSISTANTD_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("ASSISTANTD_PUBLIC_URL", "https://assistants.example.com/")

    code = run(monkeypatch, "env")

    assert code == 0
    assert capsys.readouterr().out == (
        "export OPENAI_BASE_URL=https://assistants.example.com/v1 OPENAI_API_KEY=sk-asst-y\n"
    )


def test_env_while_the_stack_starts_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path / "data")
    home.create()
    home.acquire()
    home.record(State(1, "http://127.0.0.1:8300/v1", "sk-asst-x", "starting"))

    code = run(monkeypatch, "env", "--data", str(home.root))
    home.release()

    assert code == 1
    assert capsys.readouterr().out == ""


def test_up_refuses_a_port_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])

        code = run(monkeypatch, "up", "--data", str(tmp_path), "--port", port, "--no-model")

    assert code == 1


def test_up_refuses_itself_as_model_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSTREAM_BASE_URL", "http://localhost:8397/v1")

    with pytest.raises(Exception, match="is this server itself"):
        up(data=tmp_path, port=8397, no_model=False)


def test_a_process_without_its_settings_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    from orchestrator.settings import get_settings

    get_settings.cache_clear()

    code = run(monkeypatch, "migrate")

    assert code == 2


def test_settings_that_are_wrong_together_are_named_as_they_are_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://somebody@127.0.0.1:1/nothing")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("UPSTREAM_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("ASSISTANTD_WEBHOOK_URL", "https://example.com/hook")
    monkeypatch.delenv("ASSISTANTD_WEBHOOK_SECRET", raising=False)

    code = run(monkeypatch, "migrate")

    said = " ".join(capsys.readouterr().err.split())
    assert code == 2
    assert "Settings are missing or wrong (ASSISTANTD_WEBHOOK_SECRET must be whsec_" in said


def test_a_database_that_cannot_be_reached_is_told_in_one_sentence_when_it_is_to_be_migrated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://somebody:secret@127.0.0.1:1/nothing")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("UPSTREAM_BASE_URL", "http://127.0.0.1:1/v1")
    from orchestrator.settings import get_settings

    get_settings.cache_clear()

    code = run(monkeypatch, "migrate")
    get_settings.cache_clear()

    said = capsys.readouterr().err
    assert code == 1
    assert "The database could not be brought to this version." in said
    assert "Traceback" not in said
    assert "secret" not in said
