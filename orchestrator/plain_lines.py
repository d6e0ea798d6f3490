"""Lines of runs in the plain state: one statement each, shared by all runs of a process that write one at the moment.

    message, calls ──▶ turn ──▶ rest (requires_action)        in_progress ──▶ requires_action | completed
                  └──▶ completion (completed)                 (`lifecycle.FROM` knows all other transitions)

The plain state: the run is in progress, and the attempt and the owner are those of the line; nobody has a row locked
that the line needs; nobody waits for the thread, or for a place, when it comes free. Who is in any other state is not
written to, and is not among the answers: `lifecycle`, `closing` and `turns` decide, and word what has happened.

What must not be forgotten:

- A statement locks with SKIP LOCKED whatever it writes or refers to: one run that somebody holds up holds up no other.
- Whether somebody waits for a thread may be asked only behind its lock, with what is committed by then. A statement
  sees what was committed before it began; hence the function (migration 0009), whose statements each look anew.
- A statement whose answer was lost may be sent again, and may even arrive late: ids are the caller's, so nothing is
  there twice; a turn is saved once; and an attempt that has ended writes nothing.
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
from orchestrator.tables import HOLDS_PLACE, LACKS_PLACE

Row: TypeAlias = Json
"""What a statement says of a run that it has written to."""


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


_MINE = "runs.status = 'in_progress' AND runs.attempt = asked.attempt AND runs.owner = asked.owner"
_LOCKED = "LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED"
_RUN = f"""
    CROSS JOIN LATERAL (
        SELECT runs.thread_id, runs.assistant_id, runs.project_id FROM runs
        WHERE runs.id = asked.run_id AND {_MINE} {_LOCKED}
    ) AS run"""  # noqa: S608  # our own words
_THREAD = """
    CROSS JOIN LATERAL (
        SELECT 1 FROM threads WHERE threads.id = run.thread_id LIMIT 1 FOR KEY SHARE SKIP LOCKED
    ) AS thread"""
"""What new messages refer to: a client that deletes it is not waited for either."""
_MESSAGE = f"""
    CROSS JOIN LATERAL (
        SELECT 1 FROM messages
        WHERE messages.id = asked.message_id AND messages.status = 'in_progress' {_LOCKED}
    ) AS message"""  # noqa: S608  # our own words
_UNSAVED = """
    CROSS JOIN LATERAL (
        SELECT 1 FROM run_steps
        WHERE run_steps.id = asked.step_id AND run_steps.status = 'in_progress' AND run_steps.usage IS NULL LIMIT 1
    ) AS unsaved"""
_NEW_STEP = (
    "INSERT INTO run_steps (id, run_id, thread_id, assistant_id, created_at, type, status, step_details, metadata)"
)

MESSAGES: Final = f"""
WITH held AS MATERIALIZED (
    SELECT asked.*, run.*
    FROM unnest($1::text[], $2::int[], $3::text[], $4::text[], $5::text[], $6::bigint[])
        AS asked(run_id, attempt, owner, message_id, step_id, at) {_RUN} {_THREAD}
),
opened AS (
    INSERT INTO messages (id, thread_id, created_at, role, status, content, attachments, metadata, assistant_id, run_id)
    SELECT message_id, thread_id, at, 'assistant', 'in_progress', '[]', '[]', '{{}}', assistant_id, run_id FROM held
    ON CONFLICT DO NOTHING
),
begun AS (
    {_NEW_STEP}
    SELECT step_id, run_id, thread_id, assistant_id, at, 'message_creation', 'in_progress',
        format('{{"type":"message_creation","message_creation":{{"message_id":"%s"}}}}', message_id)::json, '{{}}'
    FROM held
    ON CONFLICT DO NOTHING
)
SELECT run_id FROM held
"""  # noqa: S608  # our own words

_BEGIN_CALLS = f"""
begun AS (
    {_NEW_STEP}
    SELECT step_id, run_id, thread_id, assistant_id, at, 'tool_calls', 'in_progress',
        '{{"type":"tool_calls","tool_calls":[]}}'::json, '{{}}'
    FROM held
    ON CONFLICT DO NOTHING
)"""  # noqa: S608  # our own words
_CALLS = """
    FROM unnest(
        $1::text[], $2::int[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::text[], $9::text[]
    ) AS asked(run_id, attempt, owner, step_id, at, message_id, content, message_step_id, usage)"""

CALLS: Final = f"""
WITH held AS MATERIALIZED (
    SELECT asked.*, run.* {_CALLS} {_RUN}
), {_BEGIN_CALLS}
SELECT run_id FROM held
"""  # noqa: S608  # our own words

CALLS_AFTER_MESSAGES: Final = f"""
WITH held AS MATERIALIZED (
    SELECT asked.*, run.* {_CALLS} {_RUN} {_MESSAGE}
),
said AS (
    UPDATE messages SET status = 'completed', content = held.content::json, completed_at = held.at
    FROM held WHERE messages.id = held.message_id
    RETURNING held.run_id, messages.metadata
),
closed AS (
    UPDATE run_steps SET status = 'completed', completed_at = held.at, usage = held.usage::json
    FROM held WHERE run_steps.id = held.message_step_id
), {_BEGIN_CALLS}
SELECT run_id, metadata FROM said
"""  # noqa: S608  # our own words

TURNS: Final = f"""
WITH held AS MATERIALIZED (
    SELECT asked.*
    FROM unnest($1::text[], $2::int[], $3::text[], $4::text[], $5::text[], $6::text[])
        AS asked(run_id, attempt, owner, step_id, details, usage) {_RUN} {_UNSAVED}
),
recovered AS (
    UPDATE runs SET losses = 0 FROM held WHERE runs.id = held.run_id AND runs.losses > 0
)
UPDATE run_steps SET step_details = held.details::json, usage = held.usage::json
FROM held WHERE run_steps.id = held.step_id
RETURNING held.run_id
"""  # noqa: S608  # our own words

RESTS: Final = f"""
WITH held AS MATERIALIZED (
    SELECT asked.*, run.*
    FROM unnest(
        $1::text[], $2::int[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[], $9::text[]
    ) AS asked(run_id, attempt, owner, step_id, details, usage, action, at, event_id) {_RUN} {_UNSAVED}
),
roomy AS MATERIALIZED (
    SELECT each.project_id FROM (SELECT DISTINCT project_id FROM held) AS each
    WHERE (SELECT 1 FROM runs WHERE runs.project_id = each.project_id AND {LACKS_PLACE.text} LIMIT 1) IS NULL
        AND (
            SELECT 1 FROM runs WHERE runs.project_id = each.project_id AND {HOLDS_PLACE.text} OFFSET $10::bigint LIMIT 1
        ) IS NULL
        AND (
            $11::bigint IS NULL OR (SELECT 1 FROM runs WHERE {HOLDS_PLACE.text} OFFSET $11::bigint LIMIT 1) IS NULL
        )
),
saved AS (
    UPDATE run_steps SET step_details = held.details::json, usage = held.usage::json
    FROM held WHERE run_steps.id = held.step_id AND held.project_id IN (SELECT project_id FROM roomy)
    RETURNING held.*
),
closed AS (
    UPDATE run_attempts SET ended_at = now(), outcome = 'requires_action', detail = NULL
    FROM saved
    WHERE run_attempts.run_id = saved.run_id AND run_attempts.attempt = saved.attempt AND run_attempts.ended_at IS NULL
),
told AS (
    INSERT INTO webhook_deliveries (id, created_at, type, data, attempts)
    SELECT event_id, at, 'thread.run.requires_action', json_build_object('id', run_id, 'thread_id', thread_id), 0
    FROM saved WHERE event_id IS NOT NULL
)
UPDATE runs SET status = 'requires_action', required_action = saved.action::json, owner = NULL, lease_until = NULL,
    losses = 0, placed = false
FROM saved WHERE runs.id = saved.run_id
RETURNING runs.id, runs.expires_at, runs.metadata
"""  # noqa: S608  # our own words

COMPLETIONS: Final = """
SELECT * FROM assistantd_complete_runs_1(
    run_ids => $1, attempts => $2, owners => $3, thread_ids => $4, message_ids => $5, contents => $6, step_ids => $7,
    usages => $8, totals => $9, times => $10, event_ids => $11, near => $12, near_all => $13
)
"""

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
    Rest: f"SELECT runs.id, runs.expires_at, runs.metadata {_OF_AN_ATTEMPT}",
    Completion: f"""SELECT runs.id, runs.completed_at, runs.metadata, runs.usage,
        (SELECT messages.metadata FROM messages WHERE messages.id = $4) {_OF_AN_ATTEMPT}""",  # noqa: S608
}
"""What a line has left behind that was written: the same columns as its statement says of it."""

Asked: TypeAlias = Message | Calls | Turn | Rest | Completion


class PlainLines:
    """The lines of a process. Each method returns what the statement says of the run, or None if it was not in the
    plain state. Raises what `direct` raises: then nobody knows, and `happened` tells later.
    """

    def __init__(self, direct: Direct, bounds: Bounds) -> None:
        self._direct = direct
        self._under_way: set[asyncio.Future[None]] = set()
        self._near = places.asked(bounds, "")
        self.message: Batch[Message, Row] = Batch(self._of(MESSAGES))
        self.calls: Batch[Calls, Row] = Batch(self._of(CALLS))
        self.calls_after_message: Batch[Calls, Row] = Batch(self._of(CALLS_AFTER_MESSAGES))
        self.turn: Batch[Turn, Row] = Batch(self._of(TURNS))
        self.rest: Batch[Rest, Row] = Batch(self._of(RESTS, *self._bounds()))
        self.completion: Batch[Completion, Row] = Batch(self._of(COMPLETIONS, *self._bounds()))
        self.may_end = not places.crowded(bounds, waiting=False, near=False)
        """Whether any place is ever so plentiful that nobody need be asked who gets it."""

    async def happened(self, line: Asked) -> Row:
        """What a line has left behind whose answer was lost, or not waited for; None if it was not written."""
        if self._under_way:  # it may be among them, and not have left yet
            await asyncio.wait(self._under_way)
        await self._direct.fetch(FREE, line.run_id)
        rows = await self._direct.fetch(HAPPENED[type(line)], line.run_id, *_traces(line))
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
            written = {row[0]: row for row in rows}
            return [written.get(line.run_id) for line in lines]

        return carry_out

    def _bounds(self) -> tuple[int, int | None]:
        return self._near["near"], self._near.get("near_all")


def _traces(line: Asked) -> tuple[Json, ...]:
    """What `HAPPENED` is asked beside the run's id."""
    match line:
        case Calls():
            return line.step_id, line.message_id
        case Rest():
            return line.attempt, "requires_action"
        case Completion():
            return line.attempt, "completed", line.message_id
    return (line.step_id,)


BY_RUN = attrgetter("run_id")
