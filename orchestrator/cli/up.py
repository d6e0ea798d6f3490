"""`assistantd up`: the whole stack in one terminal."""

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.status import Status
from rich.table import Table
from rich.text import Text

from orchestrator.cli.console import CommandError, DataOption, err, hint, out, show_error
from orchestrator.embedded.home import Home, State
from orchestrator.embedded.process import EmbeddedError, free_port
from orchestrator.embedded.stack import HOST, Plan, Stack
from orchestrator.embedded.supervisor import StopRequested
from orchestrator.embedded.upstream import refuse_ourselves
from orchestrator.embedded.warden import part_from_warden

STOPPED = 130
KILLED = 128 + signal.SIGKILL
WIDTH = 10  # columns for the names of facts
AROUND_FACTS = WIDTH + 6  # and for the frame and its padding


def up(
    data: DataOption = None,
    port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65535, help="Port of the API; 0 takes any that is free.")
    ] = 8300,
    model: Annotated[str, typer.Option(metavar="NAME", help="The built-in model: 0.5b, 1.5b or tiny.")] = "0.5b",
    no_model: Annotated[bool, typer.Option("--no-model", metavar="", help="Start without a model server.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", metavar="", help="Do not print address and key: for logs that others read.")
    ] = False,
) -> None:
    """Start everything: Postgres, Valkey, model, API and worker. Ctrl-C stops it.

    DATABASE_URL, REDIS_URL and UPSTREAM_BASE_URL (with UPSTREAM_API_KEY) replace the built-in parts by yours.
    """
    upstream = os.environ.get("UPSTREAM_BASE_URL") or None
    home = Home(data)
    home.create()
    home.acquire()
    port = _check_port(port) if port else free_port()
    refuse_ourselves(upstream, host=HOST, port=port)
    if not (no_model or upstream):
        fetch_model(model)
    plan = Plan(
        home,
        port,
        database_url=os.environ.get("DATABASE_URL") or None,
        redis_url=os.environ.get("REDIS_URL") or None,
        upstream_base_url=upstream,
        model=None if no_model else model,
    )
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    code = part_from_warden()
    if code == KILLED:
        show_error("The supervisor was killed. Everything that it ran has ended; the data is kept.")
    raise typer.Exit(_supervise(plan, data, quiet=quiet) if code is None else code)


def fetch_model(name: str) -> None:
    """Have the model's file at hand; the first time on a machine it is downloaded, with a progress bar."""
    from orchestrator.cli.model import fetch

    fetch(name)


def _check_port(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise CommandError(f"Port {port} cannot be used ({error.strerror}). Choose another with --port.") from error
    return port


def _supervise(plan: Plan, data: Path | None, *, quiet: bool) -> int:
    narrator = TerminalNarrator()
    try:
        Stack(plan, narrator).run(lambda state: narrator.serving(None if quiet else _welcome(state, plan, data)))
    except StopRequested:
        return narrator.end(STOPPED)
    except EmbeddedError as error:
        narrator.end(1)
        show_error(str(error), getattr(error, "tail", ""))
        return 1
    return narrator.end(0)


class TerminalNarrator:
    """Says what happens: a spinner while parts start or stop, and one line for each that is ready or in trouble."""

    def __init__(self) -> None:
        self._status = Status("", console=err)
        self._busy: dict[str, str] = {}

    def starting(self, name: str) -> None:
        """A part is being started."""
        self._busy[name] = "starting"
        self._show()

    def ready(self, name: str, seconds: float) -> None:
        """A part serves."""
        self._busy.pop(name, None)
        err.print(Text.assemble(("✓ ", "bold green"), f"{name:<9}", (f"{seconds:5.1f} s", "dim")))
        self._show()

    def trouble(self, text: str, tail: str = "") -> None:
        """A part ended by itself."""
        show_error(text, tail)

    def stopping(self, *names: str) -> None:
        """Parts are asked to end."""
        self._busy = dict.fromkeys(names, "stopping")
        self._show()

    def serving(self, welcome: RenderableType | None) -> None:
        """Everything is up."""
        self._busy.clear()
        self._status.stop()
        if welcome is not None:
            out.print(welcome, soft_wrap=not isinstance(welcome, Panel))

    def end(self, code: int) -> int:
        """Nothing runs any more."""
        self._status.stop()
        if code != 1:
            err.print(Text.assemble(("✓ ", "bold green"), "stopped"))
        return code

    def _show(self) -> None:
        if not self._busy:
            return self._status.stop()
        what = next(iter(self._busy.values()))
        self._status.update(Text(f"{what} {', '.join(self._busy)}", "dim"))
        return self._status.start()


def _welcome(state: State, plan: Plan, data: Path | None) -> RenderableType:
    facts = {
        "Base URL": Text(state.base_url, "bold cyan"),
        "API key": Text(state.api_key, "bold"),
        "Model": Text(_model(plan)),
        "Data": Text(str(plan.home.root)),
        "": Text(""),
        "Clients": Text(f'eval "$({hint("env", data)})"', "green"),
        "Try it": Text(hint("demo", data), "green"),
        "Docs": Text(state.base_url.removesuffix("/v1") + "/docs"),
    }
    if max(value.cell_len for value in facts.values()) > out.width - AROUND_FACTS:
        # Nothing in a frame that is broken over lines can be copied.
        lines = [Text.assemble((f"{name:<{WIDTH}}", "dim"), value) for name, value in facts.items()]
        return Group(Text("assistantd is up (Ctrl-C stops it)", "bold"), *lines)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", width=WIDTH - 2)
    table.add_column()
    for name, value in facts.items():
        table.add_row(name, value)
    return Panel(
        table, title="[bold]assistantd is up[/]", subtitle="[dim]Ctrl-C stops it[/]", border_style="green", expand=False
    )


def _model(plan: Plan) -> str:
    if plan.upstream_base_url:
        return plan.upstream_base_url
    if plan.model:
        return f"built-in, {plan.model} (a small one, for demonstration)"
    return "none: set UPSTREAM_BASE_URL to have runs answered"
