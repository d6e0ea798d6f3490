"""What is read along with a claim: the run, the newest page of its thread, and what it has said and called itself.

The query goes on where `claiming.claimed` ends, and finds what `Past.begin` and `past.own` find with four statements a
run. The page is bounded as there, by number and by weight, and walks the same indexes (see `Direct`); one that is too
heavy for a batch is left out, and read by itself.

Nothing in it may fail for one row: the others would fail with it. So JSON comes as text, and is read here, run by run;
where the statement has to look into it, it goes by the text, too. Postgres' own operators raise for what is no string.
"""

from collections.abc import Sequence
from typing import Final

import orjson

from orchestrator import claiming
from orchestrator.execution import past
from orchestrator.execution.conversation import TORN, Called, Said
from orchestrator.execution.past import Page
from orchestrator.foreign import Json
from orchestrator.tables import Message, Run, RunStep, records

HEAVY: Final = 1024 * 1024
"""Bytes of one run's messages, as they are stored, that a batch takes along, and of its calls."""
RUN: Final = records.Columns(Run)

# The parameters: the first page, the largest one, and what is too heavy.
_FIRST, _LARGEST, _HEAVY = (f"${claiming.ASKED + place}" for place in (1, 2, 3))
_LAST = r"""substring(truncation_strategy::text FROM '"last_messages"\s*:\s*([1-9][0-9]{0,8})\y')"""
_TORN = rf"""incomplete_details::text ~ '"reason"\s*:\s*"{TORN}"'"""
_READ: Final = f"""
SELECT {RUN.of("r")}, most, said.*, called.*,
    CASE WHEN attempt > 1 THEN (SELECT json_agg(row_to_json(m))::text FROM messages m WHERE m.run_id = r.id) END,
    CASE WHEN attempt > 1 THEN (
        SELECT (json_agg(row_to_json(s)) FILTER (WHERE s.type = 'tool_calls'))::text FROM run_steps s
        WHERE s.run_id = r.id  -- and no more, or an index of all calls might be searched
    ) END
FROM (
    SELECT *, CASE WHEN {_LAST} IS NULL THEN {_FIRST}::int ELSE least({_LAST}::int, {_LARGEST}::int) END AS most
    FROM claimed OFFSET 0  -- worked out once for each run, not wherever it is asked for
) r,
LATERAL (
    SELECT array_agg(position), array_agg(run_id), array_agg(role), array_agg(kept), max(total),
        CASE WHEN count(*) = most THEN min(position) ELSE 0 END AS reach
    FROM (
        SELECT *, CASE WHEN total <= {_HEAVY}::bigint THEN content::text END AS kept
        FROM (
            SELECT m.position, m.run_id, m.role, m.content, sum(pg_column_size(m.content)) OVER () AS total
            FROM (
                SELECT * FROM messages
                WHERE thread_id = r.thread_id AND (run_id IS NULL OR run_id <> r.id) AND status <> 'in_progress'
                    AND (incomplete_details IS NULL OR NOT {_TORN})
                ORDER BY position DESC LIMIT most
            ) m
        ) weighed
    ) kept
) said,
LATERAL (
    SELECT array_agg(position), array_agg(run_id), array_agg(kept), max(total)
    FROM (
        SELECT *, CASE WHEN total <= {_HEAVY}::bigint THEN step_details::text END AS kept
        FROM (
            SELECT s.position, s.run_id, s.step_details, sum(pg_column_size(s.step_details)) OVER () AS total
            FROM (
                SELECT * FROM run_steps
                WHERE thread_id = r.thread_id AND type = 'tool_calls' AND run_id <> r.id AND position > said.reach
                ORDER BY position DESC LIMIT {_LARGEST}::int
            ) s
        ) weighed
    ) kept
) called
"""  # noqa: S608  # our own words
STATEMENT: Final = claiming.claimed() + _READ
AGAIN: Final = claiming.claimed(again=True) + _READ


_SAID = len(RUN) + 1
_CALLED = _SAID + 6
_OWN = _CALLED + 4


def bounds() -> tuple[int, int, int]:
    """The statement's last parameters."""
    return past.FIRST_PAGE, past.LARGEST_PAGE, HEAVY


def run_of(row: Json) -> Run:
    """The run of a row that the statement has found. Raises ValueError if it cannot be read."""
    return records.run(RUN.values(row[: len(RUN)]))


def page_of(row: Json) -> Page | None:
    """The newest page of its thread, or None if that is too heavy to come along. Raises ValueError, or whatever
    follows from JSON that is not in the shape of a message.
    """
    positions, run_ids, roles, contents, heft, reach = row[_SAID:_CALLED]
    if positions is None:
        said = []
    elif contents[0] is None:
        return None
    else:
        said = [*map(Said, positions, run_ids, roles, map(orjson.loads, contents))]
    positions, run_ids, details, more = row[_CALLED:_OWN]
    if positions is None:
        return Page([*reversed(said)], reach, int(heft or 0))
    if details[0] is None:
        return None
    called = [*map(Called, positions, run_ids, map(orjson.loads, details))]
    if len(called) == past.LARGEST_PAGE:
        reach = called[-1].position
    return Page(past.ordered(said, called, reach), reach, int(heft or 0) + int(more))


def own_of(row: Json) -> list[Message | RunStep]:
    """What earlier attempts at the run have said and called, oldest first."""
    said, called = row[_OWN:]
    if said is None and called is None:
        return []
    items: Sequence[Message | RunStep] = [
        *map(records.message, orjson.loads(said or "[]")),
        *map(records.step, orjson.loads(called or "[]")),
    ]
    return sorted(items, key=lambda item: item.position)
