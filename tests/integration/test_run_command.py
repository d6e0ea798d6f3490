"""`assistantd run`: what operators see of runs, on a terminal and as JSON, and what they never see."""

import asyncio
import json

import pytest
import pytest_asyncio
import sqlalchemy as sa
from typer.testing import CliRunner

from orchestrator import attempts, cli
from orchestrator.cli.console import CommandError
from orchestrator.foreign import Json
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.tables import Thread, Worker
from tests.fakes.model_control import RemoteModelServer
from tests.fakes.replies import Reply
from tests.integration.play import Play
from tests.stack import Stack

SAID = "The secret word is Xylophon."


@pytest_asyncio.fixture
async def play(bare: Resources, bare_settings: Settings, project_id: str, stack: Stack) -> Play:
    """A stage without other runs."""
    await asyncio.to_thread(stack.model.reset)
    async with bare.database.transaction() as session:
        await session.execute(sa.delete(Thread))
        await session.execute(sa.delete(Worker))
    return Play(bare, bare_settings, project_id)


@pytest.fixture
def model(stack: Stack) -> RemoteModelServer:
    return stack.model


async def say(settings: Settings, *arguments: str, columns: int = 200) -> Json:
    """What the command says, in a process that knows the database."""
    environment = {"DATABASE_URL": settings.database_url.get_secret_value(), "COLUMNS": str(columns)}
    return await asyncio.to_thread(CliRunner().invoke, cli.app, ["run", *arguments], env=environment)


async def test_a_run_is_shown_with_all_its_attempts_and_without_what_was_said(
    play: Play, bare_settings: Settings, model: RemoteModelServer
) -> None:
    await asyncio.to_thread(model.script, Reply.hang(), Reply.text(SAID))
    await play.begin(instructions=SAID)
    await play.cut(model)
    await play.carry()

    shown = await say(bare_settings, "show", play.run_id)

    assert shown.exit_code == 0
    for fact in (play.run_id, play.thread_id, play.project_id, "completed", "handed over", attempts.worker(), "gpt-4o"):
        assert fact in shown.output
    assert "Xylophon" not in shown.output


async def test_a_run_is_shown_as_json_for_programs(play: Play, bare_settings: Settings) -> None:
    await play.begin()
    await play.left_by("101")
    await play.sweep()

    shown = json.loads((await say(bare_settings, "show", play.run_id, "--json")).output)

    assert (shown["run"], shown["status"], shown["losses"]) == (play.run_id, "in_progress", 1)
    assert [(tried["attempt"], tried["outcome"]) for tried in shown["attempts"]] == [(1, "worker died")]
    assert shown["expires_at"].endswith("+00:00")


async def test_a_run_that_nobody_has_claimed_is_shown_all_the_same(play: Play, bare_settings: Settings) -> None:
    await play.begin()

    shown = await say(bare_settings, "show", play.run_id)

    assert "No worker has claimed it yet." in shown.output


async def test_a_run_that_is_not_there_is_an_error_in_one_sentence(play: Play, bare_settings: Settings) -> None:
    shown = await say(bare_settings, "show", "run_nowhere")

    assert isinstance(shown.exception, CommandError)
    assert str(shown.exception) == "There is no run with the id run_nowhere."


async def test_runs_that_are_not_over_are_listed_with_who_is_at_them(play: Play, bare_settings: Settings) -> None:
    await play.begin()
    over = play.run_id
    await play.carry()
    await play.begin()
    async with play.bare.database.transaction() as session:
        session.add(Worker(owner="101", name="host:1"))
    await play.left_by("101")

    listed = await say(bare_settings, "list")
    as_json = json.loads((await say(bare_settings, "list", "--json", "--status", "in_progress")).output)
    waiting = await say(bare_settings, "list", "--status", "requires_action")

    assert play.run_id in listed.output
    assert over not in listed.output
    assert [(run["id"], run["worker"]) for run in as_json] == [(play.run_id, "host:1")]
    assert waiting.output.strip() == "No run is requires_action."


async def test_a_narrow_terminal_cuts_off_no_id_and_no_reason(play: Play, bare_settings: Settings) -> None:
    await play.begin()
    await play.left_by("101")
    listed = await say(bare_settings, "list", columns=40)
    await play.sweep()
    shown = await say(bare_settings, "show", play.run_id, columns=40)

    assert f"\n{play.run_id}  in_progress " in listed.output
    assert listed.output.endswith(f"  {play.thread_id}\n")
    assert shown.output.endswith("  worker died\n")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://someone:secret@127.0.0.1:1/nowhere",
        "postgresql://someone:secret@127.0.0.1:99999/nowhere",
        "postgresql://someone:secret@127.0.0.1:port/nowhere",
        "mysql://someone:secret@127.0.0.1/nowhere",
    ],
)
async def test_a_database_that_is_away_is_told_in_one_sentence_without_its_password(url: str) -> None:
    environment = {"DATABASE_URL": url}

    shown = await asyncio.to_thread(CliRunner().invoke, cli.app, ["run", "show", "run_x"], env=environment)

    assert isinstance(shown.exception, CommandError)
    assert str(shown.exception) == "The database does not answer as it should."
    assert "secret" not in shown.exception.detail


async def test_without_a_stack_the_command_says_how_to_start_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    nowhere = str(tmp_path_factory.mktemp("home"))
    arguments = ["run", "list", "--data", nowhere]

    shown = await asyncio.to_thread(CliRunner().invoke, cli.app, arguments, env={"DATABASE_URL": None})

    assert isinstance(shown.exception, CommandError)
    assert "No assistantd is running on" in str(shown.exception)
