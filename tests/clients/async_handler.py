"""A handler for asynchronous streams that writes down what it is told."""

from openai import AsyncAssistantEventHandler
from openai.types.beta import AssistantStreamEvent
from openai.types.beta.threads import ImageFile, Message, MessageDelta, Text, TextDelta
from openai.types.beta.threads.runs import RunStep, RunStepDelta, ToolCall, ToolCallDelta
from typing_extensions import override

from tests.clients.facts import note


class Handler(AsyncAssistantEventHandler):
    """Notes every call-back when it is first called, every event, and what the deltas add up to."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []
        self.events: list[str] = []
        self.text = ""
        self.arguments: dict[str, str] = {}
        self.images: list[str] = []
        self.contents: list[object] = []

    def _note(self, name: str) -> None:
        if name not in self.called:
            self.called.append(name)

    @override
    async def on_event(self, event: AssistantStreamEvent) -> None:
        note(self.events, event.event)

    @override
    async def on_run_step_created(self, run_step: RunStep) -> None:
        self._note("run_step_created")

    @override
    async def on_run_step_delta(self, delta: RunStepDelta, snapshot: RunStep) -> None:
        self._note("run_step_delta")

    @override
    async def on_run_step_done(self, run_step: RunStep) -> None:
        self._note("run_step_done")

    @override
    async def on_tool_call_created(self, tool_call: ToolCall) -> None:
        self._note("tool_call_created")

    @override
    async def on_tool_call_delta(self, delta: ToolCallDelta, snapshot: ToolCall) -> None:
        self._note("tool_call_delta")

    @override
    async def on_tool_call_done(self, tool_call: ToolCall) -> None:
        self._note("tool_call_done")
        if tool_call.type == "function":
            self.arguments[tool_call.id] = tool_call.function.arguments

    @override
    async def on_message_created(self, message: Message) -> None:
        self._note("message_created")

    @override
    async def on_message_delta(self, delta: MessageDelta, snapshot: Message) -> None:
        self._note("message_delta")

    @override
    async def on_message_done(self, message: Message) -> None:
        self._note("message_done")
        self.contents.append(message.to_dict()["content"])

    @override
    async def on_text_created(self, text: Text) -> None:
        self._note("text_created")

    @override
    async def on_text_delta(self, delta: TextDelta, snapshot: Text) -> None:
        self._note("text_delta")
        self.text += delta.value or ""

    @override
    async def on_text_done(self, text: Text) -> None:
        self._note("text_done")

    @override
    async def on_image_file_done(self, image_file: ImageFile) -> None:
        self._note("image_file_done")
        self.images.append(image_file.file_id)

    @override
    async def on_end(self) -> None:
        self._note("end")

    @override
    async def on_timeout(self) -> None:
        self._note("timeout")

    @override
    async def on_exception(self, exception: Exception) -> None:
        self._note("exception")
