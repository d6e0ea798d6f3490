"""The statements of the plain cases. Each takes what many have asked for, as JSON, and returns what it has done.

What must not be forgotten:

- A statement sees what was committed before it began, not what was when it got its lock. So no answer of the same
  statement to "is a run active?" is good enough: for runs, the index of active runs decides (`ON CONFLICT DO NOTHING`);
  messages go through a function, whose statements each see what is committed by then.
- Threads are locked before anything is written, and never waited for: who is at it goes first. So two statements cannot
  wait for each other.
- Postgres guesses that everybody asks for a hundred things. Only subqueries with `LIMIT` keep it to its indexes
  whatever the sizes of the tables. And only `column || ''` keeps it from walking all that a project or a thread has
  for one row whose key it knows: while tables are small, it takes the one for as good as the other.
"""

# ruff: noqa: S608  # what is put together here are our own words: whatever clients say is a parameter

from functools import lru_cache
from typing import Final

from orchestrator.lifecycle import PATIENCE
from orchestrator.tables import HOLDS_PLACE, IS_ACTIVE, LACKS_PLACE, Message, Run, RunStep
from orchestrator.tables.records import Columns

RUN: Final = Columns(Run)
STEP: Final = Columns(RunStep)
MESSAGE: Final = Columns(Message)

ADD_MESSAGES: Final = """
SELECT asked.id
FROM json_to_recordset($1::json) AS asked(
    project_id text, thread_id text, id text, at bigint, role text, content json, attachments json, metadata jsonb
)
WHERE assistantd_add_message_1(project_id, thread_id, id, at, role, content, attachments, metadata)
"""

_ASKED = """
asked AS MATERIALIZED (
    SELECT * FROM json_to_recordset($1::json) AS asked(
        project_id text, thread_id text, id text, assistant_id text, lifetime bigint, at bigint, thread json,
        messages json, model text, instructions text, additional text, tools json, tool_resources json, metadata jsonb,
        temperature float8, top_p float8, reasoning_effort text, response_format json, max_completion_tokens bigint,
        max_prompt_tokens bigint, truncation_strategy json, tool_choice json, parallel_tool_calls boolean
    )
)"""

_ROOMY = f"""
roomy AS MATERIALIZED (
    SELECT project_id FROM (SELECT DISTINCT project_id FROM asked) AS each
    WHERE (SELECT 1 FROM runs WHERE runs.project_id = each.project_id AND {LACKS_PLACE.text} LIMIT 1) IS NULL
        AND (
            SELECT 1 FROM runs WHERE runs.project_id = each.project_id AND {HOLDS_PLACE.text} OFFSET $2::bigint LIMIT 1
        ) IS NULL
        AND (
            $3::bigint IS NULL OR (SELECT 1 FROM runs WHERE {HOLDS_PLACE.text} OFFSET $3::bigint LIMIT 1) IS NULL
        )
)"""
"""Projects without any run that waits for a place, far from the bounds."""

_ASSISTANT = """
    CROSS JOIN LATERAL (
        SELECT model, instructions, tools, temperature, top_p, reasoning_effort, response_format FROM assistants
        WHERE assistants.id = asked.assistant_id AND assistants.project_id || '' = asked.project_id LIMIT 1
    ) AS assistant"""

_OF_A_THREAD = f"""
ready AS MATERIALIZED (
    SELECT asked.id, assistant.*
    FROM asked JOIN roomy USING (project_id) {_ASSISTANT}
    CROSS JOIN LATERAL (
        SELECT 1 FROM threads WHERE threads.id = asked.thread_id AND threads.project_id || '' = asked.project_id LIMIT 1
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS locked
    WHERE (SELECT 1 FROM runs WHERE runs.thread_id = asked.thread_id AND {IS_ACTIVE.text} LIMIT 1) IS NULL
)"""

_WITH_A_THREAD = f"""
ready AS MATERIALIZED (
    SELECT asked.id, assistant.* FROM asked JOIN roomy USING (project_id) {_ASSISTANT}
),
opened AS (
    INSERT INTO threads (id, project_id, created_at, tool_resources, metadata, on_active_run)
    SELECT asked.thread_id, project_id, at, thread -> 'tool_resources', (thread -> 'metadata_')::jsonb,
        thread ->> 'on_active_run'
    FROM ready JOIN asked USING (id)
)"""

_INSTRUCTIONS = """
        CASE
            WHEN coalesce(asked.additional, '') = '' THEN coalesce(asked.instructions, ready.instructions)
            WHEN coalesce(asked.instructions, ready.instructions, '') = '' THEN asked.additional
            ELSE coalesce(asked.instructions, ready.instructions) || E'\\n\\n' || asked.additional
        END"""

_MADE = f"""
made AS (
    INSERT INTO runs (
        id, thread_id, project_id, assistant_id, created_at, expires_at, status, waiting, placed, attempt, losses,
        wake_at, model, instructions, tools, tool_resources, metadata, temperature, top_p, reasoning_effort,
        response_format, max_completion_tokens, max_prompt_tokens, truncation_strategy, tool_choice, parallel_tool_calls
    )
    SELECT asked.id, asked.thread_id, asked.project_id, asked.assistant_id, clock.at, clock.at + asked.lifetime,
        'queued', false, true, 0, 0, now() + interval '{PATIENCE} seconds',
        coalesce(asked.model, ready.model), {_INSTRUCTIONS},
        coalesce(asked.tools, ready.tools), coalesce(asked.tool_resources, '{{}}'), asked.metadata,
        coalesce(asked.temperature, ready.temperature), coalesce(asked.top_p, ready.top_p),
        coalesce(asked.reasoning_effort, ready.reasoning_effort),
        coalesce(asked.response_format, ready.response_format), asked.max_completion_tokens, asked.max_prompt_tokens,
        coalesce(asked.truncation_strategy, '{{"type":"auto","last_messages":null}}'),
        coalesce(asked.tool_choice, '"auto"'), coalesce(asked.parallel_tool_calls, true)
    FROM ready JOIN asked USING (id), (SELECT floor(extract(epoch FROM statement_timestamp()))::bigint AS at) AS clock
    ON CONFLICT DO NOTHING
    RETURNING *
)"""

_SAID = """
said AS (
    INSERT INTO messages (id, thread_id, created_at, completed_at, role, status, content, attachments, metadata)
    SELECT each.id, asked.thread_id, asked.at, asked.at, each.role, 'completed', each.content, each.attachments,
        each.metadata
    FROM made JOIN asked USING (id) CROSS JOIN LATERAL json_to_recordset(asked.messages) AS each(
        id text, role text, content json, attachments json, metadata jsonb
    )
)"""

CREATE_RUNS: Final = f"""
WITH {_ASKED}, {_ROOMY}, {_OF_A_THREAD}, {_MADE}, {_SAID}
SELECT {RUN.of("made")} FROM made
"""

CREATE_THREADS_AND_RUNS: Final = f"""
WITH {_ASKED}, {_ROOMY}, {_WITH_A_THREAD}, {_MADE}, {_SAID}
SELECT {RUN.of("made")} FROM made
"""

_OWNED = """
    CROSS JOIN LATERAL (
        SELECT 1 FROM threads WHERE threads.id = asked.thread_id AND threads.project_id || '' = asked.project_id LIMIT 1
    ) AS owned"""

_WAITS = """
    CROSS JOIN LATERAL (
        SELECT runs.attempt, runs.required_action -> 'submit_tool_outputs' -> 'tool_calls' AS calls FROM runs
        WHERE runs.id = asked.id AND runs.thread_id || '' = asked.thread_id LIMIT 1
    ) AS seen
    CROSS JOIN LATERAL (
        SELECT 1 FROM runs
        WHERE runs.id = asked.id AND runs.attempt = seen.attempt AND runs.status || '' = 'requires_action' LIMIT 1
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS locked"""
"""The run as it was when the statement began: it is again when it is locked, for it waits at the same attempt. So are
its steps.
"""

_ANSWERED = """
    CROSS JOIN LATERAL (
        SELECT run_steps.id, run_steps.status, run_steps.step_details -> 'tool_calls' AS calls FROM run_steps
        WHERE run_steps.run_id = asked.id ORDER BY run_steps.position DESC LIMIT 1
    ) AS step
    CROSS JOIN LATERAL (
        SELECT bool_and(each ->> 'type' = 'function') AS plain, json_build_object(
            'type', 'tool_calls', 'tool_calls', json_agg(json_build_object(
                'id', each -> 'id', 'type', 'function', 'function', json_build_object(
                    'name', each -> 'function' -> 'name', 'arguments', each -> 'function' -> 'arguments',
                    'output', coalesce(asked.outputs -> (each ->> 'id'), each -> 'function' -> 'output')
                )
            ))
        ) AS details
        FROM json_array_elements(step.calls) AS each
    ) AS answered
    CROSS JOIN LATERAL (
        SELECT jsonb_agg(each ->> 'id') AS ids FROM json_array_elements(seen.calls) AS each
    ) AS expected"""

SUBMIT_TOOL_OUTPUTS: Final = f"""
WITH asked AS MATERIALIZED (
    SELECT * FROM json_to_recordset($1::json) AS asked(
        project_id text, thread_id text, id text, at bigint, outputs json, ids jsonb
    )
), {_ROOMY},
held AS MATERIALIZED (
    SELECT asked.id, asked.project_id, asked.at, step.id AS step_id, answered.details
    FROM asked JOIN roomy USING (project_id) {_OWNED} {_WAITS} {_ANSWERED}
    WHERE step.status = 'in_progress' AND answered.plain
        AND jsonb_array_length(expected.ids) = jsonb_array_length(asked.ids)
        AND expected.ids @> asked.ids AND asked.ids @> expected.ids
),
closed AS (
    UPDATE run_steps SET step_details = held.details, status = 'completed', completed_at = held.at
    FROM held WHERE run_steps.id = held.step_id AND run_steps.id = ANY (ARRAY(SELECT step_id FROM held))
    RETURNING run_steps.*
),
moved AS (
    UPDATE runs SET status = 'queued', attempt = runs.attempt + 1, owner = NULL, lease_until = NULL, losses = 0,
        required_action = NULL, project_id = held.project_id, placed = true,
        wake_at = now() + interval '{PATIENCE} seconds'
    FROM held WHERE runs.id = held.id AND runs.id = ANY (ARRAY(SELECT id FROM held))
    RETURNING runs.*
)
SELECT {RUN.of("moved")}, {STEP.of("closed")} FROM moved JOIN closed ON closed.run_id = moved.id
"""
"""A run that waits for exactly these outputs, of calls that differ in their ids, is queued, and its step is closed."""

RETRIEVE_RUNS: Final = f"""
SELECT asked.ordinality, found.*
FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS asked(project_id, thread_id, id, ordinality)
CROSS JOIN LATERAL (
    SELECT {RUN.of("runs")} FROM runs
    WHERE runs.id = asked.id AND runs.thread_id || '' = asked.thread_id LIMIT 1
) AS found
CROSS JOIN LATERAL (
    SELECT 1 FROM threads WHERE threads.id = asked.thread_id AND threads.project_id || '' = asked.project_id LIMIT 1
) AS owned
"""

_TABLES: Final = {"messages": MESSAGE, "runs": RUN}


@lru_cache
def page(table: str, order: str, *, after: bool, before: bool, of_run: bool) -> str:
    """A page of a thread's messages or runs: `$1` project, `$2` thread, `$3` how many, `$4` after, `$5` before, `$6`
    run. A cursor that is not in the list leaves the page empty.
    """
    rising = order == "asc"
    conditions = ["each.thread_id = $2::text", "(SELECT project_id FROM threads WHERE id = $2::text) = $1::text"]
    scope = "thread_id = $2::text"
    if of_run:
        scope += " AND run_id = $6::text"
        conditions.append("each.run_id = $6::text")
    for parameter, asked, larger in (("$4", after, rising), ("$5", before, not rising)):
        cursor = f"(SELECT position FROM {table} WHERE id = {parameter}::text AND {scope})"
        unused = f"{parameter}::text IS NULL"
        conditions.append(f"each.position {'>' if larger else '<'} {cursor}" if asked else unused)
    if not of_run:
        conditions.append("$6::text IS NULL")
    backwards = before and not after
    ascending = rising != backwards
    return f"""
SELECT {_TABLES[table].of("each")} FROM {table} AS each
WHERE {" AND ".join(conditions)}
ORDER BY each.position {"ASC" if ascending else "DESC"} LIMIT $3::bigint
"""
