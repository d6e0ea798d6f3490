"""Answering a turn's calls: all at once, and what stops one of them stops all."""

import asyncio

import pytest

from orchestrator.errors import LeaseLost
from orchestrator.execution.journal import Journal
from orchestrator.execution.loop import answer
from orchestrator.foreign import Json
from orchestrator.tools import Toolbox, ToolCall
from orchestrator.tools.function import Function


class Notes(Journal):
    """Remembers outputs; `refused` is the call for which the lease is lost."""

    def __init__(self, refused: str = "") -> None:
        """Nothing else of a journal is needed."""
        self.outputs: dict[str, str] = {}
        self._refused = refused

    async def answered(self, call: ToolCall, output: str) -> None:
        if call.name == self._refused:
            raise LeaseLost("run_1")
        self.outputs[call.id] = output


class Slow:
    """A tool that answers when it is let."""

    clients = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.begun = asyncio.Event()
        self.let = asyncio.Event()
        self.stopped = False

    def offer(self) -> Json:
        return {}

    async def answer(self, call: ToolCall) -> str | None:
        self.begun.set()
        try:
            await self.let.wait()
        except asyncio.CancelledError:
            self.stopped = True
            raise
        return call.arguments


def call(name: str) -> ToolCall:
    return ToolCall(f"call_{name}", name, f"output of {name}")


async def test_calls_are_answered_at_once_and_the_clients_are_left_in_order() -> None:
    a, b = Slow("a"), Slow("b")
    functions = [Function({"type": "function", "function": {"name": name}}) for name in ("f", "g")]
    notes = Notes()
    calls = [call(name) for name in ("f", "a", "g", "b")]

    answering = asyncio.create_task(answer(notes, Toolbox([a, b, *functions]), calls))
    await asyncio.wait_for(asyncio.gather(a.begun.wait(), b.begun.wait()), 60)
    b.let.set()
    a.let.set()

    assert await answering == [call("f"), call("g")]
    assert notes.outputs == {"call_a": "output of a", "call_b": "output of b"}


async def test_what_stops_one_stops_all_and_is_told_as_it_is() -> None:
    quick, slow = Slow("quick"), Slow("slow")
    quick.let.set()

    with pytest.raises(LeaseLost):
        await answer(Notes(refused="quick"), Toolbox([slow, quick]), [call("slow"), call("quick")])

    assert slow.stopped


async def test_an_interruption_reaches_every_tool() -> None:
    slow = Slow("slow")
    answering = asyncio.create_task(answer(Notes(), Toolbox([slow]), [call("slow")]))
    await asyncio.wait_for(slow.begun.wait(), 60)

    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering

    assert slow.stopped
