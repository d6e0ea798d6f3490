"""`assistantd demo`: a conversation with a function call, held through the official `openai` client."""

import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.panel import Panel
from rich.rule import Rule
from rich.status import Status
from rich.table import Table
from rich.text import Text

from orchestrator.cli.console import CommandError, DataOption, err, hint, out
from orchestrator.cli.env import ready_state
from orchestrator.cli.up import fetch_model
from orchestrator.embedded.home import Home
from orchestrator.embedded.process import Process
from orchestrator.embedded.stack import PACKAGES

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.beta.threads import Run
    from openai.types.beta.threads.run_submit_tool_outputs_params import ToolOutput

QUESTION = "What is the weather like in Lisbon right now?"
INSTRUCTIONS = (
    "You are a friendly weather assistant. Look the weather up with get_weather, then answer in one or two sentences."
)
WEATHER = {"lisbon": {"temperature_celsius": 21, "sky": "sunny"}}
ELSEWHERE = {"temperature_celsius": 15, "sky": "clear"}
CITY: dict[str, object] = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Name of the city, for example Lisbon"}},
    "required": ["city"],
}
ROUNDS = 4  # a model that calls functions for ever is stopped
START_WITHIN = 180.0
TIMEOUT = 180.0


def demo(
    data: DataOption = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model to ask (default: the first that is offered).")
    ] = None,
) -> None:
    """Hold a conversation: an assistant that calls a function, streamed, with token usage.

    Talks to OPENAI_BASE_URL if that is set, else to what runs on the data folder, else to a server of its own.
    """
    # The client says on each call that OpenAI retires this interface. That is why we are here.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    with _server(data) as (base_url, api_key):
        _converse(base_url, api_key, model)


@contextmanager
def _server(data: Path | None) -> Iterator[tuple[str, str]]:
    """Where to talk to, and the key."""
    home = Home(data)
    if base_url := os.environ.get("OPENAI_BASE_URL"):
        key = os.environ.get("OPENAI_API_KEY")
        if not key:
            raise CommandError("OPENAI_BASE_URL is set, but OPENAI_API_KEY is not. Set both, or neither.")
        yield base_url, key
    elif home.running():
        state = ready_state(home, data_given=data is not None)
        yield state.base_url, state.api_key
    else:
        with _own_server(home) as found:
            yield found


@contextmanager
def _own_server(home: Home) -> Iterator[tuple[str, str]]:
    home.create()
    if not os.environ.get("UPSTREAM_BASE_URL"):
        fetch_model("0.5b")
    argv = [sys.executable, "-P", "-m", "orchestrator.cli", "up", "--quiet", "--port", "0", "--data", str(home.root)]
    environment = os.environ | {"PYTHONPATH": str(PACKAGES)}

    def serves() -> bool:
        state = home.running()
        return state is not None and state.phase == "ready"

    server = Process("assistantd", argv, home.logs / "up.log", env=environment, cwd=home.logs, probe=serves)
    try:
        with Status("[dim]no server is running: starting one[/]", console=err):
            server.spawn()
            server.wait_ready(START_WITHIN)
        state = ready_state(home)
        yield state.base_url, state.api_key
    finally:
        with Status("[dim]stopping the server[/]", console=err):
            server.stop(60)


def _converse(base_url: str, api_key: str, model: str | None) -> None:
    import openai

    client = openai.OpenAI(base_url=base_url, api_key=api_key, timeout=TIMEOUT, max_retries=1)
    try:
        begin = time.monotonic()
        runs = _talk(client, model or _first_model(client))
    except openai.APIConnectionError as error:
        raise CommandError(f"{base_url} cannot be reached. Is the server running?") from error
    except openai.AuthenticationError as error:
        raise CommandError(f"{base_url} does not accept the API key.") from error
    except openai.APIStatusError as error:
        raise CommandError(f"The server answered with an error ({error.message}). See: {hint('doctor')}") from error
    _report(runs, time.monotonic() - begin)


def _first_model(client: "OpenAI") -> str:
    for model in client.models.list():
        return model.id
    raise CommandError("The server offers no model. Set UPSTREAM_BASE_URL, or start it without --no-model.")


def _talk(client: "OpenAI", model: str) -> "Run":
    """The conversation itself; returns the finished run."""
    _step("An assistant that can call a function")
    assistant = client.beta.assistants.create(
        model=model,
        name="Weather",
        instructions=INSTRUCTIONS,
        tools=[
            {
                "type": "function",
                "function": {"name": "get_weather", "description": "The current weather in a city", "parameters": CITY},
            }
        ],
    )
    _fact("assistant", assistant.id)
    _fact("model", model)
    _fact("function", "get_weather(city)")
    _step("A thread with a question")
    thread = client.beta.threads.create(messages=[{"role": "user", "content": QUESTION}])
    _fact("thread", thread.id)
    out.print(Panel(QUESTION, title="you", title_align="left", border_style="cyan", expand=False))
    try:
        _step("A streamed run")
        return _run(client, thread.id, assistant.id)
    finally:
        client.beta.assistants.delete(assistant.id)
        client.beta.threads.delete(thread.id)


def _run(client: "OpenAI", thread_id: str, assistant_id: str) -> "Run":
    from orchestrator.cli.demo_printer import Printer

    waiting = Status("[dim]waiting for the model[/]", console=err)
    printer = Printer(waiting)
    with (
        waiting,
        client.beta.threads.runs.stream(
            thread_id=thread_id, assistant_id=assistant_id, event_handler=printer
        ) as stream,
    ):
        stream.until_done()
    for _ in range(ROUNDS):
        run = printer.finished_run()
        if run.status != "requires_action" or run.required_action is None:
            return _checked(run, called=printer.called)
        calls = run.required_action.submit_tool_outputs.tool_calls
        outputs: list[ToolOutput] = [
            {"tool_call_id": call.id, "output": _get_weather(call.function.arguments)} for call in calls
        ]
        for output in outputs:
            _fact("we answer", output.get("output") or "")
        printer = Printer(waiting, called=True)
        with (
            waiting,
            client.beta.threads.runs.submit_tool_outputs_stream(
                run_id=run.id,
                thread_id=thread_id,
                tool_outputs=outputs,
                event_handler=printer,
            ) as stream,
        ):
            stream.until_done()
    raise CommandError("The model calls the function again and again instead of answering. Try another with --model.")


def _checked(run: "Run", *, called: bool) -> "Run":
    if run.status != "completed":
        why = run.last_error.message if run.last_error else "no reason was given"
        raise CommandError(f"The run ended as {run.status}: {why}")
    if not called:
        raise CommandError(
            "The model answered without calling the function. Small models do that; try another with --model."
        )
    return run


def _get_weather(arguments: str) -> str:
    """The function that the model calls: it runs here, in the client."""
    try:
        city = str(json.loads(arguments)["city"])
    except (ValueError, KeyError, TypeError):
        return json.dumps({"error": "pass the name of a city as 'city'"})
    return json.dumps({"city": city, **WEATHER.get(city.split(",")[0].strip().lower(), ELSEWHERE)})


def _report(run: "Run", seconds: float) -> None:
    table = Table(title="Token usage", title_justify="left", border_style="dim")
    for column in ("prompt", "completion", "total", "seconds"):
        table.add_column(column, justify="right")
    usage = run.usage
    counts = (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) if usage else ("–", "–", "–")
    table.add_row(*map(str, counts), f"{seconds:.1f}")
    out.print()
    out.print(table)
    out.print(
        Text.assemble(
            ("✓ ", "bold green"), "That was a tool-calling conversation through the unmodified openai client."
        )
    )


def _step(title: str) -> None:
    out.print()
    out.print(Rule(Text(title, "bold"), align="left", style="dim"))


def _fact(name: str, value: str) -> None:
    out.print(Text.assemble((f"{name:>10}  ", "dim"), value))
