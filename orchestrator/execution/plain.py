"""The plain form of the journal's lines: what is asked of one statement, and what is told once it has answered.

    asked ──▶ sent ─┬─▶ written ──▶ told
                    ├─▶ not in the plain state ──▶ the line is written as a transaction
                    └─▶ the answer was lost ──▶ has it happened? ──▶ told

The rows and the events are those of the transactions in `scribe`, `closing` and `lifecycle`; a test compares them.
Rows are records, not objects of the ORM: a run is too short for these.
"""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeAlias, TypeVar

from orchestrator import ids, plain_lines, queue, webhooks
from orchestrator.db import Database
from orchestrator.events.frames import Track
from orchestrator.execution import budget
from orchestrator.execution.budget import Own
from orchestrator.execution.reply import Reply
from orchestrator.foreign import Json
from orchestrator.plain_lines import Asked, PlainLines, Row
from orchestrator.tables import Message, Run, RunStep, now, records
from orchestrator.tables.records import changed
from orchestrator.wire import objects

T = TypeVar("T")
Opened: TypeAlias = tuple[Message, RunStep]
Event: TypeAlias = tuple[str, bytes]

NO_USAGE = objects.usage(Reply().usage)
BEGUN = ("created", "in_progress")


class Plain(Generic[T]):
    """A line as one statement. `send` carries it out; `told` says what follows from the row that it answers."""

    def __init__(self, asked: Asked, send: Callable[[], Awaitable[Row]], told: Callable[[Row], T]) -> None:
        self.asked = asked
        self.send = send
        self.told = told


class PlainForms:
    """The plain forms of the lines of one attempt at a run."""

    def __init__(self, lines: PlainLines, database: Database, run: Run, track: Track) -> None:
        self.lines = lines
        self._database = database
        self._run = run
        self._track = track
        self._fence = run.id, run.attempt, run.owner

    def message(self, message_id: str, step_id: str) -> Plain[Opened]:
        """Open a reply's message and its step."""
        asked = plain_lines.Message(*self._fence, message_id, step_id, now())

        def told(_: Row) -> Opened:
            message = self._message(message_id, asked.at)
            step = self._step(step_id, "message_creation", {"message_id": message_id}, asked.at)
            self._tell(_of_step(step, self._run.expires_at, *BEGUN) + _of_message(message, *BEGUN))
            return message, step

        return Plain(asked, lambda: self.lines.message(asked), told)

    def calls(self, reply: Reply, step_id: str) -> Plain[tuple[Message | None, RunStep]]:
        """Open the step of the reply's tool calls; a message that came before them is complete."""
        message, step = reply.message, reply.step
        if message is None or step is None:
            asked = plain_lines.Calls(*self._fence, step_id, now(), None, None, None, None)
        else:
            content, usage = _text(reply.content()), _text(NO_USAGE)
            asked = plain_lines.Calls(*self._fence, step_id, now(), message.id, content, step.id, usage)

        def told(row: Row) -> tuple[Message | None, RunStep]:
            closed: Message | None = None
            events: list[Event] = []
            if message is not None and step is not None:
                closed, events = self._completed(message, step, reply.content(), NO_USAGE, asked.at, row["metadata"])
            begun = self._step(step_id, "tool_calls", [], asked.at)
            self._tell(events + _of_step(begun, self._run.expires_at, *BEGUN))
            return closed, begun

        statement = self.lines.calls if message is None else self.lines.calls_after_message
        return Plain(asked, lambda: statement(asked), told)

    def turn(self, step: RunStep, known: dict[str, Json], *, rests: bool) -> Plain[RunStep | None]:
        """Save what is known of a turn's step. If the run `rests`, it waits for its client to answer all its calls:
        then no step is left to go on with.
        """
        texts = _text(known["step_details"]), _text(known["usage"])
        if rests:
            return self._rest(step, texts, objects.required_action(known["step_details"]["tool_calls"]))
        asked = plain_lines.Turn(*self._fence, step.id, *texts)
        return Plain(asked, lambda: self.lines.turn(asked), lambda _: changed(step, **known))

    def rest(self, step: RunStep, action: Json) -> Plain[None] | None:
        """Have the run wait for its client, with a turn's step as it is saved, if that may be plain."""
        if step.usage is None:
            return None
        return self._rest(step, (_text(step.step_details), _text(step.usage)), action)

    def _rest(self, step: RunStep, texts: tuple[str, str], action: Json) -> Plain[Json]:
        event_id = self._event_id()
        asked = plain_lines.Rest(*self._fence, step.id, *texts, _text(action), now(), event_id)

        def told(row: Row) -> None:
            values = {"required_action": action, "expires_at": row["expires_at"], "metadata": row["metadata"]}
            self._tell_rest("requires_action", event_id, [], values)

        return Plain(asked, lambda: self.lines.rest(asked), told)

    def outputs(self, step: RunStep, known: dict[str, Json]) -> Plain[RunStep]:
        """Save the outputs of calls of a turn's step, and that it is completed if it is."""
        before, details = _text(step.step_details), _text(known["step_details"])
        asked = plain_lines.Outputs(*self._fence, step.id, before, details, known.get("completed_at"))

        def told(_: Row) -> RunStep:
            answered = changed(step, **known)
            if asked.at is not None:
                self._tell(_of_step(answered, self._run.expires_at, "completed"))
            return answered

        return Plain(asked, lambda: self.lines.outputs(asked), told)

    def completion(self, reply: Reply, own: Own) -> Plain[None] | None:
        """Close the reply's message and its step as completed, and end the run so, if it was opened. `own` is
        what it has said and called before.
        """
        message, step = reply.message, reply.step
        if message is None or step is None:
            return None
        content, usage, event_id = reply.content(), objects.usage(reply.usage), self._event_id()
        cost, total = _text(usage), budget.total(self._run, own, usage)
        asked = plain_lines.Completion(
            *self._fence,
            self._run.thread_id,
            message.id,
            _text(content),
            step.id,
            cost,
            cost if total is usage else None if total is None else _text(total),
            now(),
            event_id,
        )

        def told(row: Row) -> None:
            _, completed_at, metadata, spent, pairs, _ = row
            _, events = self._completed(message, step, content, usage, asked.at, pairs)
            values = {"expires_at": None, "completed_at": completed_at, "usage": spent, "metadata": metadata}
            self._tell_rest("completed", event_id, events, values)

        return Plain(asked, lambda: self.lines.completion(asked), told)

    # -- rows --

    def _message(self, message_id: str, at: int) -> Message:
        run = self._run
        return records.of(
            Message,
            {
                "id": message_id,
                "position": 0,
                "thread_id": run.thread_id,
                "created_at": at,
                "role": "assistant",
                "status": "in_progress",
                "content": [],
                "attachments": [],
                "metadata_": {},
                "assistant_id": run.assistant_id,
                "run_id": run.id,
                "incomplete_details": None,
                "completed_at": None,
                "incomplete_at": None,
            },
        )

    def _step(self, step_id: str, kind: str, details: Json, at: int) -> RunStep:
        run = self._run
        return records.of(
            RunStep,
            {
                "id": step_id,
                "position": 0,
                "run_id": run.id,
                "thread_id": run.thread_id,
                "assistant_id": run.assistant_id,
                "created_at": at,
                "type": kind,
                "status": "in_progress",
                "step_details": {"type": kind, kind: details},
                "last_error": None,
                "usage": None,
                "metadata_": {},
                "expired_at": None,
                "cancelled_at": None,
                "failed_at": None,
                "completed_at": None,
            },
        )

    def _completed(
        self, message: Message, step: RunStep, content: list[Json], usage: Json, at: int, pairs: Json
    ) -> tuple[Message, list[Event]]:
        ended = {"status": "completed", "completed_at": at}
        message = changed(message, content=content, metadata_=pairs, **ended)
        step = changed(step, usage=usage, **ended)
        return message, _of_message(message, "completed") + _of_step(step, self._run.expires_at, "completed")

    def _event_id(self) -> str | None:
        return ids.new("evt_") if self._database.webhooks else None

    # -- events --

    def _tell_rest(self, status: str, event_id: str | None, before: list[Event], values: dict[str, Json]) -> None:
        data = objects.dump({**objects.run(self._run), "status": status, **values})
        self._tell([*before, (f"thread.run.{status}", data)])
        if event_id is not None:
            self._database.publisher.push(*queue.message(webhooks.DELIVER, event_id))

    def _tell(self, events: list[Event]) -> None:
        """All at once: one by one, they cost twice as much."""
        self._database.publisher.events(self._track.frames(events))


def _of_message(message: Message, *events: str) -> list[Event]:
    data = objects.dump(objects.message(message))
    return [(f"thread.message.{event}", data) for event in events]


def _of_step(step: RunStep, expires_at: int, *events: str) -> list[Event]:
    data = objects.dump(objects.run_step(step, expires_at))
    return [(f"thread.run.step.{event}", data) for event in events]


def _text(value: Json) -> str:
    return objects.dump(value).decode()
