"""`assistantd health`: whether the process beside it works, for supervisors that find out by running a command.

Exit code 0 and a word if it does, 1 and a sentence if not. Such a command is started every few seconds for as long as
the process lives, so it imports next to nothing. It ends within its timeout, whatever hangs: who is killed by a
supervisor that waited too long has not said why.
"""

import asyncio
import http.client
import os
import socket
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Thread
from typing import Annotated

import typer
from typing_extensions import override

from orchestrator.cli.console import CommandError
from orchestrator.cli.plain_help import Command, Group
from orchestrator.foreign import Json

app = typer.Typer(
    cls=Group,
    help="Whether a process on this host works: [bold]api[/], [bold]worker[/] or [bold]model[/]. For healthchecks.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

HERE = "127.0.0.1"
ANYWHERE = ("0.0.0.0", "::")  # noqa: S104  # to compare with

Timeout = Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="Longest wait for an answer.")]


class Abandoning(ThreadPoolExecutor):
    """Threads that nobody waits for at the end: what asks a name server that hangs cannot be interrupted."""

    @override
    def submit(self, call: Callable[..., Json], /, *arguments: Json, **named: Json) -> "Future[Json]":
        """Carry out a call in a thread of its own."""
        future: Future[Json] = Future()
        future.set_running_or_notify_cancel()  # from here on nobody can cancel it, and so its end can be told

        def carry_out() -> None:
            try:
                future.set_result(call(*arguments, **named))
            except BaseException as error:
                future.set_exception(error)

        Thread(target=carry_out, daemon=True).start()
        return future


@app.command(cls=Command)
def api(timeout: Timeout = 8.0) -> None:
    """Whether the API on ASSISTANTD_API_PORT can serve: the database answers, and has this release's schema."""
    host = os.environ.get("ASSISTANTD_API_HOST") or HERE
    _ask(HERE if host in ANYWHERE else host, int(os.environ.get("ASSISTANTD_API_PORT") or "8300"), "/readyz", timeout)


@app.command(cls=Command)
def model(
    port: Annotated[int, typer.Option(metavar="PORT", min=1, max=65535, help="Port of `model serve`.")],
    timeout: Timeout = 4.0,
) -> None:
    """Whether the built-in model is loaded and answers."""
    _ask(HERE, port, "/health", timeout)


@app.command(cls=Command)
def worker(
    host: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another host than this one.", show_default=False)
    ] = None,
    timeout: Timeout = 8.0,
) -> None:
    """Whether a worker on this host holds its lock in the database, and has been heard of within ASSISTANTD_RUN_LEASE.

    It is not while the database is away: then nobody can say.
    """
    import asyncpg

    from orchestrator.settings import Settings

    settings, name = Settings(), host or socket.gethostname()
    try:
        age = asyncio.run(_last_word(settings.database_url.get_secret_value(), name, timeout))
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        # The text of a ValueError may quote the address.
        detail = "" if isinstance(error, ValueError) else str(error)
        raise CommandError(f"The database cannot be asked ({type(error).__name__}).", detail) from error
    if age is None:
        raise CommandError(f"No worker on {name} holds its lock: it has not begun yet, or has lost the database.")
    if age > settings.run_lease:
        raise CommandError(f"The worker on {name} has not been heard of for {age:.0f} seconds.")
    sys.stdout.write(f"heard of {max(age, 0.0):.1f} s ago\n")


async def _last_word(url: str, host: str, timeout: float) -> float | None:
    from orchestrator.vital_signs import last_word

    asyncio.get_running_loop().set_default_executor(Abandoning())  # asyncio resolves names there
    return await last_word(url, host, timeout)


def _ask(host: str, port: int, path: str, timeout: float) -> None:
    try:
        status, said = Abandoning().submit(_answer, host, port, path, timeout).result(timeout)
    except TimeoutError as error:
        raise CommandError(f"Nobody answers at {host}:{port} within {timeout:g} seconds.") from error
    except (OSError, http.client.HTTPException) as error:
        raise CommandError(f"Nobody answers at {host}:{port} ({str(error) or type(error).__name__}).") from error
    if status != http.client.OK:
        raise CommandError(f"It cannot serve: {said}")
    sys.stdout.write(f"{said}\n")


def _answer(host: str, port: int, path: str, patience: float) -> tuple[int, str]:
    """Status and the beginning of the body. No single step takes longer than `patience`; all together may."""
    connection = http.client.HTTPConnection(host, port, timeout=patience)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(1000).decode(errors="replace").strip()
    finally:
        connection.close()
