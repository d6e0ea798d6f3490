"""How commands speak: results to standard output, everything else to standard error."""

import json
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
NARROWEST = 20  # columns for text beside what leads it in; below, lines are left to the terminal
UNTOLD = ("event", "level", "logger", "timestamp", "color_message")  # what a log line has besides its values

DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="The folder that holds all data (default: ~/.assistantd)."),
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
    say(err, Text("✗ ", "bold red"), Text(text))
    if detail:
        show_tail(detail)


def show_tail(text: str) -> None:
    """The last lines of somebody's log, told apart from our own words and cut to a readable length."""
    edge = Text("  │ ", "red")
    for line in text.splitlines():
        told = _told(line)
        say(err, edge, Text(told if len(told) <= WIDEST else told[:WIDEST] + "…", "dim"), edge)


def say(console: Console, lead: Text, text: Text, lead_again: Text | None = None) -> None:
    """A line that may be long. On a terminal it is broken between words, and goes on under its beginning."""
    room = console.width - lead.cell_len
    if not console.is_terminal or room < NARROWEST:
        console.print(Text.assemble(lead, text), soft_wrap=True)
        return
    for line in text.wrap(console, room):
        line.rstrip()
        console.print(Text.assemble(lead, line), soft_wrap=True)
        lead = lead_again or Text(" " * lead.cell_len)


def _told(line: str) -> str:
    """A line of our own logs as a person would write it; any other as it is."""
    try:
        values = json.loads(line)
        event = values["event"]
    except (ValueError, KeyError, TypeError):
        return line
    told = " ".join(f"{key}={value}" for key, value in values.items() if key not in UNTOLD)
    return f"{values.get('level', '')}: {event} {told}".rstrip()
