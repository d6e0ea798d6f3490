"""Claims many runs in one statement: the same step of their lives as `lifecycle.claim`, for the plain case only.

A run is taken if it is queued, due, at the attempt that its wake-up names, and locked by nobody. All others are left to
`lifecycle.claim`, which waits for locks, and knows what was left behind. `LIVES` and `DUE` say the same as there: a
step has one rule, however it is made. What was locked is updated where it lies: to look for a hundred ids a second time
took longer than all else. A row that has moved since the statement began is not found there, and left, too.

What is repeated because its answer was lost finds the runs that it has taken already: in progress, ours, at the attempt
after the one that was named. Whoever asks `again` must know that nobody else of this process has claimed them.
"""

from typing import Final

from orchestrator.lifecycle import FROM
from orchestrator.tables import EPOCH, HOLDS_PLACE

CLOCK: Final = str(EPOCH)
STATUS: Final = "(status || '')"
"""Runs are found by their ids. Said plainly, what they have to be like would lead Postgres, while it knows little of
the table, to partial indexes: it would walk through all runs that are not over, for each batch.
"""
LIVES: Final = f"{STATUS} IN ({', '.join(repr(status) for status in FROM['in_progress'])})"
DUE: Final = f"{HOLDS_PLACE.text.replace('status', STATUS)} AND expires_at > {CLOCK}"
ASKED: Final = 5
"""Parameters of the statement: ids and attempts, as arrays; the owner, the seconds of its lease, its worker's name."""


def claimed(*, again: bool = False) -> str:
    """The beginning of a statement, which goes on with a query of `claimed`: the rows of the runs that were taken."""
    fence = "($2::int[])[array_position($1::text[], id)]"
    plain = f"attempt = {fence} AND {LIVES} AND {DUE}"
    ours = f"attempt = {fence} + 1 AND {STATUS} = 'in_progress' AND owner = $3"
    return f"""
WITH free AS MATERIALIZED (
    SELECT ctid AS place, {fence} AS fence FROM runs
    WHERE id = ANY($1::text[]) AND ({f"({plain}) OR ({ours})" if again else plain})
    FOR NO KEY UPDATE SKIP LOCKED
),
claimed AS (
    UPDATE runs SET status = 'in_progress', started_at = {CLOCK}, attempt = fence + 1, owner = $3,
        lease_until = now() + make_interval(secs => $4)
    FROM free WHERE runs.ctid = free.place RETURNING runs.*
),
opened AS (
    INSERT INTO run_attempts (run_id, attempt, worker, started_at)
    SELECT id, attempt, $5::text, now() FROM claimed{" ON CONFLICT DO NOTHING" if again else ""}
)
"""  # noqa: S608  # our own words
