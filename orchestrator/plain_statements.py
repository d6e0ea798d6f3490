"""The statements of `plain_lines`, which says what must not be forgotten about them: one for each kind of line.

Each takes the lines' fields as arrays, in their order, and returns the runs that it has written to.
"""

from typing import Final

from orchestrator.tables import HOLDS_PLACE, LACKS_PLACE

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
_OPEN = """
    CROSS JOIN LATERAL (
        SELECT 1 FROM run_steps
        WHERE run_steps.id = asked.step_id AND run_steps.status = 'in_progress'
            AND (run_steps.usage IS NULL OR run_steps.step_details::text = asked.details) LIMIT 1
    ) AS open"""
"""Not saved yet, or saved as it is."""
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
FROM held WHERE run_steps.id = held.step_id AND run_steps.usage IS NULL
RETURNING held.run_id
"""  # noqa: S608  # our own words

OUTPUTS: Final = f"""
WITH held AS MATERIALIZED (
    SELECT asked.*
    FROM unnest($1::text[], $2::int[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[])
        AS asked(run_id, attempt, owner, step_id, before, details, at) {_RUN}
),
recovered AS (
    UPDATE runs SET losses = 0 FROM held WHERE runs.id = held.run_id AND runs.losses > 0
)
UPDATE run_steps SET step_details = held.details::json, completed_at = held.at,
    status = CASE WHEN held.at IS NULL THEN run_steps.status ELSE 'completed' END
FROM held
WHERE run_steps.id = held.step_id AND run_steps.status = 'in_progress' AND run_steps.step_details::text = held.before
RETURNING held.run_id
"""  # noqa: S608  # our own words

RESTS: Final = f"""
WITH held AS MATERIALIZED (
    SELECT asked.*, run.*
    FROM unnest(
        $1::text[], $2::int[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[], $9::text[]
    ) AS asked(run_id, attempt, owner, step_id, details, usage, action, at, event_id) {_RUN} {_OPEN}
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
    FROM held WHERE run_steps.id = held.step_id
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
RETURNING runs.id, runs.expires_at, runs.metadata,
    CASE WHEN saved.project_id IN (SELECT project_id FROM roomy) THEN NULL ELSE saved.project_id END AS crowded
"""  # noqa: S608  # our own words

COMPLETIONS: Final = """
SELECT * FROM assistantd_complete_runs_2(
    run_ids => $1, attempts => $2, owners => $3, thread_ids => $4, message_ids => $5, contents => $6, step_ids => $7,
    usages => $8, totals => $9, times => $10, event_ids => $11, near => $12, near_all => $13
)
"""
