"""What becomes of a turn's calls: the server's outputs are written down, and what is left is waited for.

    answered ─┐
    answered ─┼─▶ one line: the step with these outputs (the last one completes it)
    answered ─┘
    left to the client ─▶ requires_action

Each output is a checkpoint, and those known by then are one line. It leaves in the next turn of the event loop; what
other calls answer while a line is written makes up the next one. Whoever gives an output goes on once it is written, by
whichever line.
"""

import asyncio

from orchestrator import lifecycle, turns
from orchestrator.db import Session
from orchestrator.execution import budget, scribe
from orchestrator.execution.lines import Lines
from orchestrator.tables import Message, Run, RunStep
from orchestrator.tools import ToolCall
from orchestrator.wire import objects


class Answers:
    """The calls of one attempt at a run. `own` is what the run has said and called so far."""

    def __init__(self, lines: Lines, run: Run, own: list[Message | RunStep]) -> None:
        self._lines = lines
        self._run = run
        self._own = own
        self._known: dict[str, str] = {}
        self._writing = asyncio.Lock()

    def missing(self) -> list[ToolCall]:
        """The calls of the last turn that have no output yet."""
        called = budget.turns(self._own)
        if not called or called[-1].status != "in_progress":
            return []
        calls = [call for call in called[-1].step_details["tool_calls"] if call["function"]["output"] is None]
        return [ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls]

    async def give(self, call: ToolCall, output: str) -> None:
        """Write down the output of a call of the last turn; the last one completes its step."""
        self._known[call.id] = output
        await asyncio.sleep(0)  # calls that need not wait for anything are all answered within this turn of the loop
        async with self._writing:
            if call.id in self._known:
                await self._write()

    async def wait_for(self, calls: list[ToolCall]) -> None:
        """Have the run wait until the client submits the outputs of these calls of the last turn."""
        asked = [{"id": call.id, "function": {"name": call.name, "arguments": call.arguments}} for call in calls]
        action, step = objects.required_action(asked), budget.turns(self._own)[-1]

        async def line(session: Session) -> None:
            await lifecycle.move(session, self._run, "requires_action", attempt="same", required_action=action)
            await turns.hand_on(session, self._run.project_id, self._run.thread_id, freed=True)

        plain = self._lines.plain.rest(step, action) if self._lines.plain else None
        await self._lines.write(line, plain, last=True)

    async def _write(self) -> None:
        outputs, self._known = self._known, {}
        step = budget.turns(self._own)[-1]
        known = scribe.with_outputs(step, outputs)
        plain = self._lines.plain.outputs(step, known) if self._lines.plain else None
        saved = await self._lines.write(
            lambda session: scribe.save_outputs(session, self._run, step, known), plain, checkpoint=True, last=True
        )
        self._own[self._own.index(step)] = saved
