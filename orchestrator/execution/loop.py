"""The run loop: what is unanswered is answered, otherwise the model is asked, until the run is at rest.

Every pass starts from what the journal knows, so a new run, a run resumed with tool outputs and a run taken over from a
dead worker take the same path. That is about all the loop may ever hold: features enter through a `Tool`, a `Model`, or
a line of the journal. Nobody needs to say whether somebody listens: deltas are always published.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

import structlog

from orchestrator import db
from orchestrator.errors import RunFailure, RunStopped
from orchestrator.execution.composition import counted
from orchestrator.execution.journal import Journal
from orchestrator.execution.reply import Reply
from orchestrator.model import Delta, Finished, Model, Prompt, RefusalDelta, TextDelta, ToolCallDelta
from orchestrator.tools import Toolbox, ToolCall

log = structlog.get_logger(__name__)


async def execute(journal: Journal, model: Model, tools: Toolbox) -> None:
    """Carry a claimed run to rest: over, or waiting in `requires_action`.

    Raises what the database raised while it was away or too busy: nothing is wrong with the run, it is to be given
    back.
    """
    try:
        async with journal.interruptible():
            while True:
                journal.check()
                if calls := journal.unanswered():
                    if waiting := await answer(journal, tools, calls):
                        return await journal.wait_for(waiting)
                elif await turn(journal, model, tools):
                    return None
    except RunStopped as why:
        await journal.stop(why)
    except RunFailure as failure:
        await journal.fail(failure)
    except Exception as error:
        await journal.fail(_unforeseen(error))


async def turn(journal: Journal, model: Model, tools: Toolbox) -> bool:
    """Ask the model, and write down what it says; returns whether the run is at rest then."""
    reply = Reply()
    prompt = await journal.prompt(tools.offers())
    prompt.ear = partial(journal.go_on_with, reply)
    try:
        await listen(journal, prompt, reply, model.stream(prompt))
    finally:
        prompt.ear = None  # the journal holds the prompt: it would be left to the collector, which looks rarely
    if reply.calls:
        return await journal.ask(reply, rests=tools.leaves([call.name for call in reply.calls]))
    await journal.finish(reply)
    return True


async def answer(journal: Journal, tools: Toolbox, calls: list[ToolCall]) -> list[ToolCall]:
    """Answer a turn's calls concurrently, writing each output down when known. Returns those left to the client.

    What stops one stops all: none goes on behind the back of a run that has ended.
    """

    async def one(call: ToolCall) -> ToolCall | None:
        output = await tools.answer(call)
        if output is None:
            return call
        await journal.answered(call, output)
        return None

    try:
        async with asyncio.TaskGroup() as group:
            answering = [group.create_task(one(call)) for call in calls]
    except ExceptionGroup as stopped:
        raise stopped.exceptions[0] from None
    return [call for call in map(asyncio.Task.result, answering) if call is not None]


async def listen(journal: Journal, prompt: Prompt, reply: Reply, batches: AsyncGenerator[list[Delta], None]) -> None:
    """Hear a reply to its end, telling every delta as it comes; what needs no line of the journal, all at once."""
    async with aclosing(batches):
        async for deltas in batches:
            if not deltas:
                await journal.begin(reply)
            told = 0
            while told < len(deltas):
                if more := journal.go_on(reply, deltas, told):
                    told += more
                    continue
                match deltas[told]:
                    case TextDelta() | RefusalDelta() as said:
                        await journal.say(reply, said)
                    case ToolCallDelta() as fragment:
                        await journal.call(reply, fragment)
                    case Finished() as finished:
                        reply.finished = await counted(prompt, reply, finished)
                told += 1


def _unforeseen(error: Exception) -> RunFailure:
    if db.passes(error):
        raise error
    log.error("run_failed", exc_info=error)
    return RunFailure("server_error")
