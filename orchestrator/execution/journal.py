"""What is written down of a run while it is carried: every line a transaction that only the owning attempt can write.

A message or a step is opened when the first piece of it is heard, or sure to come; each finished model turn and each
tool output is a checkpoint, so that nothing that was paid for is paid again. Before a line is written the run's row is
locked and its attempt and owner compared: a worker that has lost its lease writes nothing. Interruptions (cancel,
expiry, lost lease) are felt at once, but never in the middle of a line. No transaction is open between lines. A line
may have to be written again (see `lines`): it changes nothing in here that would not stand a repetition.
"""

from contextlib import AbstractAsyncContextManager
from typing import Final

import structlog

from orchestrator import closing, ids, lifecycle
from orchestrator.attempts import Leaving
from orchestrator.db import Database, Session
from orchestrator.errors import HandedOver, LeaseLost, OutOfTokens, RunCancelled, RunExpired, RunFailure, RunStopped
from orchestrator.events.frames import Track
from orchestrator.execution import budget, scribe
from orchestrator.execution.answers import Answers
from orchestrator.execution.composition import compose, question, whole
from orchestrator.execution.interrupts import Interrupts
from orchestrator.execution.lines import Lines
from orchestrator.execution.past import Past
from orchestrator.execution.reply import Reply
from orchestrator.foreign import Json
from orchestrator.model import Delta, Prompt, RefusalDelta, TextDelta, ToolCallDelta
from orchestrator.plain_lines import PlainLines
from orchestrator.tables import Message, Run, RunStep
from orchestrator.tools import ToolCall

log = structlog.get_logger(__name__)

HANDING_OVER = 5.0
"""Seconds that giving a run back may wait for the database: whoever does it is about to end."""
WITHHELD: Final = "server_error", "The model's answer was withheld by a content filter."


class Journal:
    """The record of one attempt at a run. One journal, one loop. The `deadline` is a time of that loop's clock."""

    def __init__(
        self,
        database: Database,
        run: Run,
        track: Track,
        past: Past,
        own: list[Message | RunStep],
        window: int,
        deadline: float,
        plain: PlainLines | None = None,
    ) -> None:
        self.run = run
        self._deadline = deadline
        self._publisher = database.publisher
        self._track = track
        self._past, self._own, self._window = past, own, window
        self._asked: Prompt | None = None
        self._interrupts = Interrupts()
        self._lines = Lines(database, run, track, self._interrupts, deadline, plain)
        self._plain = self._lines.plain
        self._answers = Answers(self._lines, run, own)
        self._heard: Reply | None = None
        self._wordless: closing.Unsaid | None = None
        """What a line that is being written opens, or takes back: an interruption may be felt before it is known."""
        self._leaving = False

    def interruptible(self) -> AbstractAsyncContextManager[None]:
        """Let `interrupt` and the run's expiry end the block by raising their reason."""
        return self._interrupts.allowed(self._deadline)

    def interrupt(self, why: RunStopped) -> None:
        """Stop the run as soon as no line is being written."""
        self._interrupts.interrupt(why)

    def leave(self) -> None:
        """Let another worker go on from the next checkpoint: what is under way is finished first."""
        self._leaving = True

    # -- what the loop asks --

    def check(self) -> None:
        """Raise what must stop the run before its next step: RunStopped, or RunFailure for a run without an end.

        A budget that is spent ends the run even if calls are unanswered: what nobody will read, nobody should do.
        """
        self._interrupts.check()
        if self._leaving:
            raise HandedOver
        if (spent := budget.spent(self.run, self._own)) is not None:
            raise spent

    def unanswered(self) -> list[ToolCall]:
        """The calls of the last turn that have no output yet."""
        return self._answers.missing()

    async def prompt(self, offers: list[Json]) -> Prompt:
        """The next question; raises OutOfTokens if the budget does not allow for any.

        What the messages only name (files) is fetched later, by the model. Interruptions wait meanwhile: pages of the
        thread are read.
        """
        run, used = self.run, budget.used(self._own)
        called = any(turn.step_details["tool_calls"] for turn in budget.turns(self._own))  # one that was torn has none
        messages = whole(run, self._past, self._own, offers, window=self._window, used=used)
        if messages is None:
            messages = await self._lines.read(
                lambda: compose(run, self._past, self._own, offers, window=self._window, used=used)
            )
        self._asked = question(run, messages, offers, called=called, used=used, deadline=self._deadline)
        return self._asked

    # -- what is heard --

    async def begin(self, reply: Reply) -> None:
        """The model has begun to answer. Without tools it can only say something: the message and its step are opened
        now, so that the first word need not wait for them.
        """
        if reply.message is None and self._asked is not None and not self._asked.tools:
            await self._open_message(reply)

    def go_on(self, reply: Reply, deltas: list[Delta], start: int) -> int:
        """Tell the text from `start` on by which an open message goes on, all at once; returns how many deltas."""
        if reply.message is None or reply.calls or reply.refusal:
            return 0
        texts = scribe.leading_texts(deltas, start)
        if texts:
            tell = self._publisher.frames if reply.text else self._publisher.first_word
            tell(self._track.texts(reply.message.id, texts, first=not reply.text))
            reply.text += texts
        return len(texts)

    def go_on_with(self, reply: Reply, text: str) -> bool:
        """The same with one text; returns whether it was told."""
        message, told = reply.message, reply.text
        if message is None or reply.calls or reply.refusal:
            return False
        self._publisher.delta(self._track.text(message.id, text, first=not told))
        told.append(text)
        return True

    async def say(self, reply: Reply, delta: TextDelta | RefusalDelta) -> None:
        """Tell a piece of text (or of a refusal); the first one opens the message and its step."""
        if reply.calls:
            log.debug("text_after_calls_dropped")  # the turn's message is closed, and steps follow each other
            return
        message = reply.message or await self._open_message(reply)
        self._tell("thread.message.delta", scribe.hear_text(reply, message, delta))

    async def call(self, reply: Reply, delta: ToolCallDelta) -> None:
        """Tell a piece of a tool call; the first one closes the turn's message and opens the step of its calls.

        Calls that the run does not allow (any with `none`, a second one without `parallel_tool_calls`) are dropped
        before anybody hears of them: not every model server does what it is told.
        """
        if self.run.tool_choice == "none" or (delta.index > 0 and not self.run.parallel_tool_calls):
            if delta.id is not None:
                log.warning("tool_call_dropped", index=delta.index)
            return
        if not reply.calls:
            await self._open_calls(reply)
        if reply.step is not None:
            for data in scribe.hear_call(reply, reply.step, delta):
                self._tell("thread.run.step.delta", data)

    # -- checkpoints --

    async def _open_message(self, reply: Reply) -> Message:
        self._wordless = new = ids.new("msg_"), ids.new("step_")
        plain = self._plain.message(*new) if self._plain else None
        opened = await self._lines.write(lambda session: scribe.open_message(session, self.run, *new), plain)
        reply.message, reply.step = opened
        self._heard, self._wordless = reply, None
        return reply.message

    async def _open_calls(self, reply: Reply) -> None:
        new = ids.new("step_")
        self._wordless = unsaid = reply.unsaid
        if unsaid:
            await self.say(reply, TextDelta(""))  # see `finish`
        plain = self._plain.calls(reply, new) if self._plain and not unsaid else None
        opened = await self._lines.write(
            lambda session: scribe.open_calls(session, self.run, reply, new, unsaid), plain
        )
        (reply.message, reply.step), self._wordless = opened, None

    async def ask(self, reply: Reply, *, rests: bool = False) -> bool:
        """Write down a turn that ended in tool calls. If it `rests`, none of them is answered here, and the run may
        wait for their outputs at once: returns whether it does. Raises OutOfTokens or RunFailure if it was cut off.
        """
        if (opened := reply.step) is None:
            raise RuntimeError("calls without a step")
        known, cut = scribe.turn(reply), reply.reason in ("length", "content_filter")
        rests = rests and not cut and not self._leaving and not budget.spent(self.run, self._own, reply.usage)
        plain = self._plain.turn(opened, known, rests=rests) if self._plain else None
        saved = await self._lines.write(
            lambda session: scribe.save_step(session, opened, **known), plain, checkpoint=True, last=True
        )
        self._heard = None
        if saved is None:
            log.info("run_requires_action", calls=len(reply.calls))
            return True
        self._own += [saved] if reply.message is None else [reply.message, saved]
        self._interrupts.check()
        if cut:
            raise OutOfTokens("max_completion_tokens") if reply.reason == "length" else RunFailure(*WITHHELD)
        return False

    async def answered(self, call: ToolCall, output: str) -> None:
        """Write down the output of a call, along with others that are known; the last one completes the step."""
        await self._answers.give(call, output)
        self._interrupts.check()

    # -- coming to rest --

    async def wait_for(self, calls: list[ToolCall]) -> None:
        """Come to rest until the client submits the outputs of these calls."""
        await self._answers.wait_for(calls)
        log.info("run_requires_action", calls=len(calls))

    async def finish(self, reply: Reply) -> None:
        """Write down the final answer and end the run as its reply ended: whole, cut off, or withheld.

        A model that said nothing has said an empty text: clients look at the first part of a message.
        """
        if not reply.content():
            await self.say(reply, TextDelta(""))
        self._heard = reply
        if reply.reason == "length":
            return await self._end("incomplete", incomplete_details={"reason": "max_completion_tokens"})
        if reply.reason == "content_filter":
            error = dict(zip(("code", "message"), WITHHELD, strict=True))
            return await self._end("failed", reason="content_filter", last_error=error)

        async def line(session: Session) -> None:
            await scribe.complete_message(session, self.run, reply, reply.usage)
            await closing.end(session, self.run, "completed", attempt="same")

        plain = self._plain.completion(reply, self._own) if self._plain else None
        await self._lines.write(line, plain, last=True, ending=True)
        log.info("run_completed", tokens=reply.usage.total_tokens)
        return None

    async def stop(self, why: RunStopped) -> None:
        """End, or leave, the run for a reason that is not its own failure."""
        match why:
            case RunExpired():
                await self._end("expired")
            case OutOfTokens(reason=reason):
                await self._end("incomplete", incomplete_details={"reason": reason})
            case RunCancelled():
                await self._end("cancelled")
            case HandedOver():
                await self.give_back()
            case _:
                log.warning("run_left", reason=type(why).__name__)

    async def fail(self, failure: RunFailure) -> None:
        """End the run as failed; its `last_error` is what the failure says."""
        await self._end("failed", last_error={"code": failure.code, "message": failure.message})

    async def give_back(self, why: Leaving = "handed over", detail: str | None = None) -> None:
        """Leave the run to another worker. What was heard of a turn that is cut is kept, closed for its listeners."""

        async def line(session: Session) -> None:
            await lifecycle.hold(session, self.run)
            unsaid = await scribe.save_unfinished(session, self._heard) or self._wordless
            await closing.close_torn(session, self.run, closing.LEFT, unsaid)
            await lifecycle.release(session, self.run, why, detail)

        try:
            await self._lines.close(line, HANDING_OVER)
        except RunCancelled:
            await self._end("cancelled")
        except LeaseLost:
            log.warning("run_left", reason="LeaseLost")
        else:
            log.info("run_released", reason=why, detail=detail)

    async def _end(self, ending: lifecycle.Ending, *, reason: str | None = None, **values: Json) -> None:
        async def line(session: Session) -> Run | None:
            final, more = ending, {"reason": reason, **values}
            try:
                await lifecycle.hold(session, self.run, ending=True)
            except RunCancelled:  # the client's wish goes before any other ending
                final, more = "cancelled", {}
            except LeaseLost:
                return None
            unsaid = await scribe.save_unfinished(session, self._heard) or self._wordless
            return await closing.end(session, self.run, final, attempt="same", unsaid=unsaid, **more)

        ended = await self._lines.close(line)
        if ended is None:
            log.warning("run_left", reason="LeaseLost")
        else:
            log.info("run_ended", status=ended.status)

    def _tell(self, event: str, data: bytes) -> None:
        self._publisher.frame(self._track.frame(event, data))
