"""Tools: what the model is told when its call cannot be answered."""

import pytest

from orchestrator.errors import RunFailure
from orchestrator.foreign import Json
from orchestrator.tools import MAX_INVENTED, Toolbox, ToolCall
from orchestrator.tools.function import Function


class Broken:
    name = "broken"
    clients = False

    def offer(self) -> Json:
        return {}

    async def answer(self, call: ToolCall) -> str | None:
        raise RuntimeError("a secret")


async def test_a_tool_that_fails_tells_the_model_so_and_no_more() -> None:
    assert await Toolbox([Broken()]).answer(ToolCall("call_1", "broken", "{}")) == "Error: the tool 'broken' failed."


async def test_a_tool_that_is_not_there_tells_the_model_what_is() -> None:
    function = Function({"type": "function", "function": {"name": "known"}})

    output = await Toolbox([function]).answer(ToolCall("call_1", "other", "{}"))

    assert output == "Error: there is no tool named 'other'. Tools: known."


async def test_a_model_that_keeps_calling_what_is_not_there_fails_the_run() -> None:
    box = Toolbox([])
    for number in range(MAX_INVENTED):
        assert await box.answer(ToolCall(f"call_{number}", "other", "{}")) is not None

    with pytest.raises(RunFailure, match="keeps calling tools"):
        await box.answer(ToolCall("call_x", "other", "{}"))


async def test_a_function_is_the_clients_to_answer() -> None:
    function = Function({"type": "function", "function": {"name": "known"}})

    assert await Toolbox([function]).answer(ToolCall("call_1", "known", "{}")) is None
