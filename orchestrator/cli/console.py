"""How commands speak: results to standard output, everything else to standard error."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text
from typing_extensions import override


class Terminal(Console):
    """A console whose reader may leave: what is said then is lost, and a stack that it speaks for goes on."""

    @override
    def on_broken_pipe(self) -> None:
        """Say nothing from now on."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


out = Terminal(highlight=False)
err = Terminal(stderr=True, highlight=False)

WIDEST = 400  # characters of somebody else's log line

DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="The folder that holds all data.", show_default="~/.assistantd"),
]


class CommandError(Exception):
    """The command cannot do its work. The text says why and what to do; `detail` is shown below it."""

    def __init__(self, text: str, detail: str = "") -> None:
        super().__init__(text)
        self.detail = detail


def command_name() -> str:
    """How the person called us, for hints that can be pasted."""
    return os.environ.get("ASSISTANTD_COMMAND", "assistantd")


def hint(command: str, data: Path | None = None) -> str:
    """A command line of ours to paste, for the same data folder."""
    return f"{command_name()} {command}" + (f" --data {data}" if data else "")


def show_error(text: str, detail: str = "") -> None:
    """One sentence in red, then what may help to understand it."""
    err.print(Text.assemble(("✗ ", "bold red"), text), soft_wrap=True)
    if detail:
        show_tail(detail)


def show_tail(text: str) -> None:
    """The last lines of somebody's log, told apart from our own words and cut to a readable length."""
    for line in text.splitlines():
        shown = line if len(line) <= WIDEST else line[:WIDEST] + "…"
        err.print(Text.assemble(("  │ ", "red"), (shown, "dim")), soft_wrap=True)
