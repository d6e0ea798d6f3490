"""The command line: `./assistantd <command>`, or `assistantd` where the package is installed.

One module per command. Anything slow to import is imported inside the command that needs it, since `env` and `--help`
are typed often and waited for.
"""

import sys

import typer
from pydantic import ValidationError

from orchestrator.cli import demo, doctor, env, health, model, processes, run, secret_files, testing, up
from orchestrator.cli.console import CommandError, command_name, show_error
from orchestrator.cli.plain_help import Command, Group
from orchestrator.errors import AssistantdError

app = typer.Typer(
    name="assistantd",
    cls=Group,
    help="The Assistants API as a service that anyone can host.\n\nNew here? [bold]up[/] starts everything, "
    "[bold]demo[/] holds a conversation, [bold]doctor[/] tells what is wrong.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

EVERY_DAY = "Every day"
SINGLE = "Single processes, configured by environment variables"
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}

app.command("up", cls=Command, rich_help_panel=EVERY_DAY)(up.up)
app.command("env", cls=Command, rich_help_panel=EVERY_DAY)(env.env)
app.command("demo", cls=Command, rich_help_panel=EVERY_DAY)(demo.demo)
app.command("doctor", cls=Command, rich_help_panel=EVERY_DAY)(doctor.doctor)
app.add_typer(run.app, name="run", rich_help_panel=EVERY_DAY)
app.add_typer(model.app, name="model", rich_help_panel=EVERY_DAY)
app.command("test", cls=Command, rich_help_panel=EVERY_DAY, context_settings=PASS_ON)(testing.test)
app.command("api", cls=Command, rich_help_panel=SINGLE)(processes.api)
app.command("worker", cls=Command, rich_help_panel=SINGLE, context_settings=PASS_ON)(processes.worker)
app.command("beat", cls=Command, rich_help_panel=SINGLE, context_settings=PASS_ON)(processes.beat)
app.command("migrate", cls=Command, rich_help_panel=SINGLE)(processes.migrate)
app.add_typer(health.app, name="health", rich_help_panel=SINGLE)
app.command("secrets", cls=Command, rich_help_panel=SINGLE)(secret_files.secrets)


def main() -> None:
    """Run the command. What can go wrong is told in one sentence; a traceback means a defect of ours."""
    try:
        app(prog_name=command_name())
    except ValidationError as error:
        show_error(_missing(error))
        sys.exit(2)
    except CommandError as error:
        show_error(str(error), error.detail)
        sys.exit(1)
    except AssistantdError as error:
        show_error(str(error), getattr(error, "tail", ""))
        sys.exit(1)
    except PermissionError as error:
        show_error(f"{error.filename or 'A file'} cannot be used: {error.strerror}. Does it belong to another user?")
        sys.exit(1)


def _missing(error: ValidationError) -> str:
    wrong = "; ".join(_told(".".join(map(str, item["loc"])), item["msg"]) for item in error.errors())
    return f"Settings are missing or wrong ({wrong}). Set them as environment variables."


def _told(setting: str, message: str) -> str:
    """What our own checks say about several settings has no place, and names the settings itself."""
    message = message.removeprefix("Value error, ")
    return f"{setting}: {message.lower()}" if setting else message
