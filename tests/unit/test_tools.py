"""Tools: what the model is told when its call cannot be answered."""

from orchestrator.foreign import Json
from orchestrator.tools import Toolbox, ToolCall
from orchestrator.tools.function import Function


class Broken:
    name = "broken"

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


async def test_a_function_is_the_clients_to_answer() -> None:
    function = Function({"type": "function", "function": {"name": "known"}})

    assert await Toolbox([function]).answer(ToolCall("call_1", "known", "{}")) is None
