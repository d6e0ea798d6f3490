"""Runs are completed though places are scarce: who asked gives away afterwards what they have freed, and is told of
which projects: `crowded` is the run's, if places of it are nearly all held or waited for.

As `assistantd_complete_runs_1` but for that: functions are never changed, old and new processes call them side by side.
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

RESTS = "'requires_action', 'cancelled', 'failed', 'completed', 'incomplete', 'expired'"
HOLDS = f"placed AND NOT waiting AND status NOT IN ({RESTS})"
LACKS = f"NOT placed AND NOT waiting AND status NOT IN ('in_progress', 'cancelling', {RESTS})"

COMPLETE_RUNS = f"""
CREATE FUNCTION assistantd_complete_runs_2(
    run_ids text[], attempts int[], owners text[], thread_ids text[], message_ids text[], contents text[],
    step_ids text[], usages text[], totals text[], times bigint[], event_ids text[], near bigint, near_all bigint
) RETURNS TABLE (
    ended_id text, ended_at bigint, run_metadata jsonb, run_usage json, message_metadata jsonb, crowded text
)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    locked text[];
BEGIN
    SELECT array_agg(thread.id) INTO locked
    FROM unnest(thread_ids) AS asked(id)
    CROSS JOIN LATERAL (
        SELECT threads.id FROM threads WHERE threads.id = asked.id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
    ) AS thread;

    RETURN QUERY
    WITH asked AS MATERIALIZED (
        SELECT * FROM unnest(
            run_ids, attempts, owners, thread_ids, message_ids, contents, step_ids, usages, totals, times, event_ids
        ) AS each(
            run_id, attempt, owner, thread_id, message_id, content, step_id, usage, total, at, event_id
        )
        WHERE each.thread_id = ANY (locked)
    ),
    held AS MATERIALIZED (
        SELECT asked.*, run.project_id
        FROM asked
        CROSS JOIN LATERAL (
            SELECT runs.project_id FROM runs
            WHERE runs.id = asked.run_id AND runs.thread_id = asked.thread_id AND runs.status = 'in_progress'
                AND runs.attempt = asked.attempt AND runs.owner = asked.owner
            LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
        ) AS run
        CROSS JOIN LATERAL (
            SELECT 1 FROM messages WHERE messages.id = asked.message_id AND messages.status = 'in_progress'
            LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
        ) AS message
        WHERE (SELECT 1 FROM runs WHERE runs.thread_id = asked.thread_id AND runs.waiting LIMIT 1) IS NULL
    ),
    roomy AS MATERIALIZED (
        SELECT each.project_id FROM (SELECT DISTINCT held.project_id FROM held) AS each
        WHERE (SELECT 1 FROM runs WHERE runs.project_id = each.project_id AND {LACKS} LIMIT 1) IS NULL
            AND (SELECT 1 FROM runs WHERE runs.project_id = each.project_id AND {HOLDS} OFFSET near LIMIT 1) IS NULL
            AND (near_all IS NULL OR (SELECT 1 FROM runs WHERE {HOLDS} OFFSET near_all LIMIT 1) IS NULL)
    ),
    said AS (
        UPDATE messages SET status = 'completed', content = held.content::json, completed_at = held.at
        FROM held WHERE messages.id = held.message_id
        RETURNING held.*, messages.metadata AS pairs
    ),
    closed_steps AS (
        UPDATE run_steps SET status = 'completed', completed_at = said.at, usage = said.usage::json
        FROM said WHERE run_steps.id = said.step_id
    ),
    closed_attempts AS (
        UPDATE run_attempts SET ended_at = now(), outcome = 'completed', detail = NULL
        FROM said
        WHERE run_attempts.run_id = said.run_id AND run_attempts.attempt = said.attempt
            AND run_attempts.ended_at IS NULL
    ),
    told AS (
        INSERT INTO webhook_deliveries (id, created_at, type, data, attempts)
        SELECT said.event_id, said.at, 'thread.run.completed',
            json_build_object('id', said.run_id, 'thread_id', said.thread_id), 0
        FROM said WHERE said.event_id IS NOT NULL
    )
    UPDATE runs SET status = 'completed', owner = NULL, lease_until = NULL, waiting = false, placed = false,
        additional_messages = NULL, required_action = NULL,
        completed_at = floor(extract(epoch FROM statement_timestamp()))::bigint,
        usage = coalesce(said.total::json, (
            SELECT json_build_object(
                'prompt_tokens', sum((spent.usage ->> 'prompt_tokens')::bigint),
                'completion_tokens', sum((spent.usage ->> 'completion_tokens')::bigint),
                'total_tokens',
                sum((spent.usage ->> 'prompt_tokens')::bigint + (spent.usage ->> 'completion_tokens')::bigint),
                'prompt_token_details', json_build_object(
                    'cached_tokens', sum((spent.usage -> 'prompt_token_details' ->> 'cached_tokens')::bigint)
                ),
                'completion_tokens_details', json_build_object(
                    'reasoning_tokens', sum((spent.usage -> 'completion_tokens_details' ->> 'reasoning_tokens')::bigint)
                )
            )
            FROM (
                SELECT said.usage::json AS usage
                UNION ALL
                SELECT run_steps.usage FROM run_steps
                WHERE run_steps.run_id = said.run_id AND run_steps.id <> said.step_id AND run_steps.usage IS NOT NULL
            ) AS spent
        ))
    FROM said WHERE runs.id = said.run_id
    RETURNING runs.id::text, runs.completed_at, runs.metadata, runs.usage, said.pairs,
        CASE WHEN said.project_id IN (SELECT roomy.project_id FROM roomy) THEN NULL ELSE said.project_id END::text;
END
$$
"""  # noqa: S608  # our own words


def upgrade() -> None:
    op.execute(COMPLETE_RUNS)


def downgrade() -> None:
    op.execute("DROP FUNCTION assistantd_complete_runs_2")
