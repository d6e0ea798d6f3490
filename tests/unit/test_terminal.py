"""What the command line looks like: lines that are broken well on a terminal, and not at all elsewhere."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.panel import Panel
from rich.text import Text
from typer.testing import CliRunner

from orchestrator import cli
from orchestrator.cli import up as up_command
from orchestrator.cli.console import Terminal, say, show_error
from orchestrator.cli.up import TerminalNarrator
from orchestrator.embedded.home import Home, State
from orchestrator.embedded.stack import Plan

SENTENCE = "This sentence is longer than the terminal is wide, so it has to be broken."


def said(text: str, *, terminal: bool, width: int = 30) -> list[str]:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)
    say(console, Text("✗ "), Text(text))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_terminal_gets_long_lines_broken_between_words_and_indented() -> None:
    assert said(SENTENCE, terminal=True) == [
        "✗ This sentence is longer than",
        "  the terminal is wide, so it",
        "  has to be broken.",
    ]


def test_a_file_gets_long_lines_whole() -> None:
    assert said(SENTENCE, terminal=False) == [f"✗ {SENTENCE}"]


def test_a_line_of_our_logs_is_shown_as_a_person_would_write_it(capsys: pytest.CaptureFixture[str]) -> None:
    show_error("api ended", '{"event": "out_of_luck", "level": "error", "timestamp": "now", "port": 1}\nplain')

    assert capsys.readouterr().err == "✗ api ended\n  │ error: out_of_luck port=1\n  │ plain\n"


@pytest.mark.parametrize("folder", ["data", "a-folder-with-a-long-name/" * 4 + "data"])
def test_what_is_to_be_pasted_is_never_broken(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.delenv("ASSISTANTD_COMMAND", raising=False)  # how the tests were started
    monkeypatch.setattr(up_command, "out", Terminal(file=written, force_terminal=True, width=80, color_system=None))
    plan = Plan(Home(Path("/", folder)), 8300)
    welcome = up_command._welcome(State(1, "http://127.0.0.1:8300/v1", "sk-asst-x"), plan, Path("/", folder))

    TerminalNarrator().serving(welcome)

    assert f'eval "$(assistantd env --data /{folder.rstrip("/")})"' in written.getvalue()
    assert isinstance(welcome, Panel) == (folder == "data")


def test_help_does_not_speak_of_types_where_there_is_nothing_to_type() -> None:
    for command in ([], ["up"], ["model"], ["model", "pull"]):
        assert "<bool>" not in CliRunner().invoke(cli.app, [*command, "--help"]).output


def test_a_quiet_stack_keeps_its_key_to_itself(capsys: pytest.CaptureFixture[str]) -> None:
    TerminalNarrator().serving(None)

    assert capsys.readouterr().out == ""
