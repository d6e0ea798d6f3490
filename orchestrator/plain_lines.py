"""Lines of runs in the plain state: one statement each, shared by all runs of a process that write one at the moment.

    message, calls ─┬─▶ turn ──▶ outputs                      in_progress ──▶ requires_action | completed
                    ├─▶ rest (requires_action)                (`lifecycle.FROM` knows all other transitions)
                    └─▶ completion (completed)

The plain state: the run is in progress, and the attempt and the owner are those of the line; nobody has a row locked
that the line needs; nobody waits for the thread when it comes free. Who is in any other state is not written to, and is
not among the answers: `lifecycle`, `closing` and `turns` decide, and word what has happened. A place that comes free is
nobody's for a moment: where places are scarce, the answers name the project, and `giving` gives them away afterwards.

What must not be forgotten:

- A statement locks with SKIP LOCKED whatever it writes or refers to: one run that somebody holds up holds up no other.
- Whether somebody waits for a thread may be asked only behind its lock, with what is committed by then. A statement
  sees what was committed before it began; hence the function (migration 0009), whose statements each look anew.
- A statement whose answer was lost may be sent again, and may even arrive late: ids are the caller's, so nothing is
  there twice; a turn is saved once; outputs are added to those that were known when they were sent; and an attempt that
  has ended writes nothing.
- One batch may hold lines of two attempts at a run, of which this process is still at the one that was taken from it.
- Postgres guesses how many rows it is given. Only subqueries with LIMIT keep it to its indexes, and connections that do
  not take whole tables into account (see `direct`).
"""

import asyncio
from collections.abc import Callable
from operator import attrgetter
from typing import Final, NamedTuple, TypeAlias

from orchestrator import places
from orchestrator.batching import Batch
from orchestrator.bounds import Bounds
from orchestrator.direct import Direct
from orchestrator.foreign import Json
from orchestrator.plain_statements import CALLS, CALLS_AFTER_MESSAGES, COMPLETIONS, MESSAGES, OUTPUTS, RESTS, TURNS

Row: TypeAlias = Json
"""What a statement says of a run that it has written to."""
Freed: TypeAlias = Callable[[str], None]


class Message(NamedTuple):
    """Opens a message and its step."""

    run_id: str
    attempt: int
    owner: str | None
    message_id: str
    step_id: str
    at: int


class Calls(NamedTuple):
    """Opens a step of tool calls; closes the turn's message, of that content, and its step before it."""

    run_id: str
    attempt: int
    owner: str | None
    step_id: str
    at: int
    message_id: str | None
    content: str | None
    message_step_id: str | None
    usage: str | None


class Turn(NamedTuple):
    """Saves the calls of a turn and what it has cost."""

    run_id: str
    attempt: int
    owner: str | None
    step_id: str
    details: str
    usage: str


class Outputs(NamedTuple):
    """Saves what the server has answered to calls of a turn's step, which was so `before`; `at`: all are answered."""

    run_id: str
    attempt: int
    owner: str | None
    step_id: str
    before: str
    details: str
    at: int | None


class Rest(NamedTuple):
    """Saves a turn whose calls are all the client's, and has the run wait for their outputs."""

    run_id: str
    attempt: int
    owner: str | None
    step_id: str
    details: str
    usage: str
    action: str
    at: int
    event_id: str | None


class Completion(NamedTuple):
    """Closes the message and its step, ends the run, frees the thread. `total`: what the run has cost; None if only its
    steps know.
    """

    run_id: str
    attempt: int
    owner: str | None
    thread_id: str
    message_id: str
    content: str
    step_id: str
    usage: str
    total: str | None
    at: int
    event_id: str | None


FREE = "SELECT 1 FROM runs WHERE id = $1 FOR NO KEY UPDATE"
"""Waits until nobody is at the run's row."""
_OF_AN_ATTEMPT = (
    "FROM runs JOIN run_attempts ON run_id = id WHERE id = $1 AND run_attempts.attempt = $2 AND outcome = $3"
)
HAPPENED: Final[dict[type, str]] = {
    Message: "SELECT run_id FROM run_steps WHERE run_id = $1 AND id = $2",
    Calls: """SELECT begun.run_id, messages.metadata FROM run_steps AS begun LEFT JOIN messages ON messages.id = $3
        WHERE begun.run_id = $1 AND begun.id = $2""",
    Turn: "SELECT run_id FROM run_steps WHERE run_id = $1 AND id = $2 AND usage IS NOT NULL",
    Outputs: "SELECT run_id FROM run_steps WHERE run_id = $1 AND id = $2 AND step_details::text = $3",
    Rest: f"SELECT runs.id, runs.expires_at, runs.metadata, runs.project_id AS crowded {_OF_AN_ATTEMPT}",
    Completion: f"""SELECT runs.id, runs.completed_at, runs.metadata, runs.usage,
        (SELECT messages.metadata FROM messages WHERE messages.id = $4), runs.project_id AS crowded {_OF_AN_ATTEMPT}""",  # noqa: S608
}
"""What a line has left behind that was written: the same columns as its statement says of it."""

Asked: TypeAlias = Message | Calls | Turn | Outputs | Rest | Completion


class PlainLines:
    """The lines of a process. Each method returns what the statement says of the run, or None if it was not in the
    plain state. Raises what `direct` raises: then nobody knows, and `happened` tells later. `freed` is told of each
    project of which a scarce place has come free.
    """

    def __init__(self, direct: Direct, bounds: Bounds, freed: Freed) -> None:
        self._direct = direct
        self._freed = freed
        self._under_way: set[asyncio.Future[None]] = set()
        asked = places.asked(bounds, "")
        near = asked["near"], asked.get("near_all")
        self.message: Batch[Message, Row] = Batch(self._of(MESSAGES))
        self.calls: Batch[Calls, Row] = Batch(self._of(CALLS))
        self.calls_after_message: Batch[Calls, Row] = Batch(self._of(CALLS_AFTER_MESSAGES))
        self.turn: Batch[Turn, Row] = Batch(self._of(TURNS))
        self.outputs: Batch[Outputs, Row] = Batch(self._of(OUTPUTS))
        self.rest: Batch[Rest, Row] = Batch(self._of(RESTS, *near))
        self.completion: Batch[Completion, Row] = Batch(self._of(COMPLETIONS, *near))

    async def happened(self, line: Asked) -> Row:
        """What a line has left behind whose answer was lost, or not waited for; None if it was not written."""
        if self._under_way:  # it may be among them, and not have left yet
            await asyncio.wait(self._under_way)
        await self._direct.fetch(FREE, line.run_id)
        rows = await self._direct.fetch(HAPPENED[type(line)], line.run_id, *_traces(line))
        self._tell_freed(rows)  # whoever should have heard of it may not have
        return rows[0] if rows else None

    def _of(self, statement: str, *terms: Json) -> Callable[..., Json]:
        async def carry_out(lines: list[Json]) -> list[Row]:
            inorder = sorted(lines, key=BY_RUN) if len(lines) > 1 else lines
            answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._under_way.add(answered)
            try:
                rows = await self._direct.fetch(statement, *zip(*inorder, strict=True), *terms)
            finally:
                self._under_way.discard(answered)
                answered.set_result(None)
            self._tell_freed(rows)
            written = {row[0]: row for row in rows}
            if written and len({line.run_id for line in lines}) < len(lines):
                return _of_the_newest(lines, written)
            return [written.get(line.run_id) for line in lines]

        return carry_out

    def _tell_freed(self, rows: list[Row]) -> None:
        for project_id in {row.get("crowded") for row in rows} - {None}:
            self._freed(project_id)


def _traces(line: Asked) -> tuple[Json, ...]:
    """What `HAPPENED` is asked beside the run's id."""
    match line:
        case Calls():
            return line.step_id, line.message_id
        case Outputs():
            return line.step_id, line.details
        case Rest():
            return line.attempt, "requires_action"
        case Completion():
            return line.attempt, "completed", line.message_id
    return (line.step_id,)


def _of_the_newest(lines: list[Json], written: dict[str, Row]) -> list[Row]:
    """The answers to lines of which some are of one run. It was taken from this process, and came back: what was
    written is the line of its newest attempt, for others have ended.
    """
    newest = {line.run_id: line.attempt for line in sorted(lines, key=attrgetter("attempt"))}
    return [written.get(line.run_id) if line.attempt == newest[line.run_id] else None for line in lines]


BY_RUN = attrgetter("run_id")
