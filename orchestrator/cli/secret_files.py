"""`assistantd secrets`: the secrets of a deployment in containers, as files in folders that become volumes.

    .env ─┐                        ┌─▶ assistantd/   one file for each setting   API, worker, migrations
          ├─▶ assistantd secrets ──┼─▶ postgres/     password                    the database
    made ─┘                        └─▶ valkey/       password, valkey.conf       the broker

What is made is made once and kept; what .env says is written anew each time, and what it no longer says is removed. So
nothing of it is in the environment of a container, in its arguments, or in what `docker compose config` prints. A
volume is what keeps others from reading the files: servers of other users read them, each from a volume of its own.
"""

import secrets as randomness
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, get_args
from urllib.parse import quote

import typer

from orchestrator.cli.console import CommandError, out

OURS, DATABASE, BROKER = "assistantd", "postgres", "valkey"
"""The folders, which are the hosts' names and the user's, too."""
API_KEY = "ASSISTANTD_API_KEY"
READABLE = 0o444


def secrets(
    into: Annotated[Path, typer.Option(metavar="DIR", help="The folder of folders to write into.")],
    dotenv: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", readable=False, help="A file of assignments, if there is one."),
    ] = None,
    needed: Annotated[
        list[str] | None, typer.Option("--need", metavar="NAME", help="A setting that has to be given.")
    ] = None,
) -> None:
    """Write the secrets of a deployment: those that a file gives, and the others made once and kept."""
    told = _told(dotenv)
    for name in needed or ():
        if name not in told:
            raise CommandError(f"{name} is missing. Set it in .env, and start again.")
    database, broker = (_made(into / folder / "password") for folder in (DATABASE, BROKER))
    _write(into / BROKER / "valkey.conf", f"requirepass {broker}\n")
    values = {
        "DATABASE_URL": f"postgresql://{OURS}:{quote(database, safe='')}@{DATABASE}:5432/{OURS}",
        "REDIS_URL": f"redis://:{quote(broker, safe='')}@{BROKER}:6379/0",
        API_KEY: _kept(into / OURS / API_KEY) or f"sk-asst-{randomness.token_urlsafe(32)}",
        **{name: told[name] for name in secret_settings() if name in told},
    }
    for path in (into / OURS).iterdir():
        if path.name not in values:
            path.unlink()
    for name, value in values.items():
        _write(into / OURS / name, value)
    out.print(f"{len(values)} secrets are in place: {', '.join(sorted(values))}.", soft_wrap=True)


def secret_settings() -> frozenset[str]:
    """The names, as variables, of the settings that are secrets."""
    from pydantic import SecretStr

    from orchestrator.settings import Settings

    return frozenset(
        str(field.validation_alias or f"ASSISTANTD_{name.upper()}")
        for name, field in Settings.model_fields.items()
        if SecretStr in (field.annotation, *get_args(field.annotation))
    )


def _told(dotenv: Path | None) -> Mapping[str, str]:
    """What the file assigns. That there is none is fine; that it cannot be read is not."""
    from dotenv import dotenv_values

    if dotenv is None:
        return {}
    try:
        with dotenv.open() as lines:
            return {name: value for name, value in dotenv_values(stream=lines, interpolate=False).items() if value}
    except FileNotFoundError:
        return {}
    except PermissionError as error:
        raise CommandError(
            f"{dotenv.name}, or the folder that it would be in, cannot be read by the containers' user.",
            f"Let it be read: chmod a+rx . && chmod a+r {dotenv.name}. To keep others out, close the folder above.",
        ) from error


def _made(path: Path) -> str:
    kept = _kept(path)
    if kept is None:
        kept = randomness.token_urlsafe(32)
        _write(path, kept)
    return kept


def _kept(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except FileNotFoundError:
        return None


def _write(path: Path, text: str) -> None:
    """Whole or not at all: whoever is killed while the only copy of a password is written has not written it."""
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_text(text)
    draft.chmod(READABLE)
    draft.replace(path)
