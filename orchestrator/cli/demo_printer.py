"""What `demo` prints while a run is streamed: an event handler of the official client.

A module of its own, since the client takes long to import.
"""

from openai import AssistantEventHandler
from openai.types.beta.threads import Message, Run, Text, TextDelta
from openai.types.beta.threads.runs import ToolCall
from rich.status import Status
from rich.text import Text as Styled
from typing_extensions import override

from orchestrator.cli.console import CommandError, out


class Printer(AssistantEventHandler):
    """Prints text as it arrives and function calls when they are complete."""

    def __init__(self, waiting: Status, *, called: bool = False) -> None:
        super().__init__()
        self.called = called
        self._waiting = waiting  # turns until the model begins

    @override
    def on_tool_call_done(self, tool_call: ToolCall) -> None:
        """The model wants a function called."""
        if tool_call.type == "function":
            self.called = True
            self._waiting.stop()
            call = f"{tool_call.function.name}({tool_call.function.arguments})"
            out.print(Styled.assemble(("    it asks  ", "dim"), (call, "yellow")))

    @override
    def on_text_created(self, text: Text) -> None:
        """The answer begins."""
        self._waiting.stop()
        out.print()
        out.print(Styled("assistant", "bold green"))

    @override
    def on_text_delta(self, delta: TextDelta, snapshot: Text) -> None:
        """The next piece of the answer."""
        out.print(Styled(delta.value or ""), end="", soft_wrap=True)

    @override
    def on_message_done(self, message: Message) -> None:
        """The answer is complete."""
        out.print()

    def finished_run(self) -> Run:
        """The run as the stream left it. Raises CommandError when it never began."""
        if self.current_run is None:
            raise CommandError("The stream ended without a run. Look at the server's logs.")
        return self.current_run
