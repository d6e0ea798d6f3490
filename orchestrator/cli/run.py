"""`assistantd run`: what is known of runs, for whoever operates them. Never what was said in them.

Asks Postgres alone, so that it answers while everything else is down.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer
from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from orchestrator.cli.console import CommandError, DataOption, hint, out
from orchestrator.cli.plain_help import Command, Group
from orchestrator.embedded.home import Home
from orchestrator.foreign import Json
from orchestrator.settings import given

if TYPE_CHECKING:
    from orchestrator.db import Session
    from orchestrator.run_records import Record

T = TypeVar("T")
Unfinished = Literal["queued", "in_progress", "requires_action", "cancelling"]

app = typer.Typer(
    cls=Group,
    help="Runs: [bold]show[/] tells all that is known of one, [bold]list[/] which are not over.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

JsonOption = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON, for programs.")]


@app.command(cls=Command)
def show(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="The run's id.")],
    as_json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Print what is known of a run: how it stands, and of each attempt at it: which worker, from when to when, and why
    it ended.

    Looks where DATABASE_URL leads, else into the running stack.
    """
    from orchestrator import run_records

    record = _ask(data, lambda session: run_records.show(session, run_id))
    if record is None:
        raise CommandError(f"There is no run with the id {run_id}.")
    if as_json:
        _print_json(record.facts | {"attempts": record.attempts})
    else:
        _print(record)


@app.command("list", cls=Command)
def list_(
    status: Annotated[Unfinished | None, typer.Option("--status", help="Only runs with this status.")] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000, help="How many, at most.")] = 50,
    as_json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Print runs that are not over, those that expire first at the top.

    Looks where DATABASE_URL leads, else into the running stack.
    """
    from orchestrator import run_records

    found = _ask(data, lambda session: run_records.unfinished(session, status, limit))
    if as_json:
        _print_json(found)
        return
    if not found:
        out.print("No run is unfinished." if status is None else f"No run is {status}.")
        return
    shown = ("id", "status", "attempt", "losses", "worker", "expires_at", "thread_id")
    names = ("run", "status", "attempt", "losses", "worker", "expires", "thread")
    _print_columns(names, [[_told(run[name]) for name in shown] for run in found])


def _ask(data: DataOption, question: "Callable[[Session], Awaitable[T]]") -> T:
    from pydantic import ValidationError
    from sqlalchemy.exc import SQLAlchemyError

    url = given("DATABASE_URL") or _running(data)
    try:
        return asyncio.run(_asked(url, question))
    except ValidationError:  # another setting is wrong, and is named
        raise
    except (OSError, OverflowError, ValueError, SQLAlchemyError) as error:  # not even an address, maybe
        reason = str(getattr(error, "orig", None) or error) or type(error).__name__
        raise CommandError("The database does not answer as it should.", reason) from error


async def _asked(url: str, question: "Callable[[Session], Awaitable[T]]") -> T:
    from pydantic import SecretStr

    from orchestrator import db
    from orchestrator.settings import Settings

    engine = db.engine(Settings(DATABASE_URL=SecretStr(url), REDIS_URL=SecretStr("")))
    try:
        async with db.Session(engine) as session:
            return await question(session)
    finally:
        await engine.dispose()


def _running(data: DataOption) -> str:
    home = Home(data)
    state = home.running()
    if state is None or not state.database_url:
        start = hint("up", data)
        raise CommandError(f"No assistantd is running on {home.root}, and DATABASE_URL is not set. Start one: {start}")
    return state.database_url


def _print_json(value: Json) -> None:
    sys.stdout.write(json.dumps(value, default=_iso, indent=1) + "\n")


def _print(record: "Record") -> None:
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(record.facts):
        facts.add_row(Text(name, "dim"), Text(value, overflow="fold"))
    out.print(facts)
    out.print()
    if not record.attempts:
        out.print("No worker has claimed it yet.")
        return
    _print_columns(("attempt", "worker", "from", "to", "took", "why it ended"), map(_attempt, record.attempts))


def _attempt(attempt: dict[str, Json]) -> list[str]:
    began, ended = attempt["started_at"], attempt["ended_at"]
    took = f"{(ended - began).total_seconds():.1f} s" if ended else "–"
    why = ", ".join(filter(None, (attempt["outcome"], attempt["detail"]))) or "it is at it"
    return [str(attempt["attempt"]), attempt["worker"], _told(began), _told(ended), took, why]


def _print_columns(names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Side by side, and nothing cut off, however narrow the terminal is: ids are there to be pasted."""
    lines = [names, *rows]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        cells = (set_cell_size(value, width) for value, width in zip(line[:-1], widths, strict=False))
        out.print(Text("  ".join((*cells, line[-1])), "" if number else "dim"), soft_wrap=True)


def _facts(facts: dict[str, Json]) -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        if value is not None:
            yield name.removesuffix("_at").replace("_", " "), _told(value)


def _told(value: Json) -> str:
    match value:
        case None:
            return "–"
        case datetime():
            exact = "milliseconds" if value.microsecond else "seconds"
            return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", exact) + "Z"
        case {"prompt_tokens": asked, "completion_tokens": said}:
            return f"{asked} tokens asked, {said} answered"
        case dict():
            return ", ".join(f"{key}: {_told(part)}" for key, part in value.items())
    return str(value)


def _iso(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
