"""Rows in bulk for `bench.growth`: long threads, runs on them, and a table full of runs that are over."""

from typing import Any

from bench.limits_rows import ASSISTANT, LIFETIME

WORDS = "The mill by the river ground barley until the frost, and then the wheel was lifted out of the water. "
THREAD = """
WITH thread AS (
    INSERT INTO threads (id, project_id, created_at, tool_resources, metadata, on_active_run)
    SELECT $1, id, 1767225600, '{}', '{}', 'reject' FROM projects ORDER BY created_at LIMIT 1 RETURNING id
)
INSERT INTO messages (id, thread_id, created_at, role, status, content, attachments, metadata, completed_at)
SELECT 'msg_' || substr($1, 8, 12) || lpad(n::text, 12, '0'), thread.id, 1767225600,
    CASE WHEN n % 2 = 0 THEN 'user' ELSE 'assistant' END, 'completed', json_build_array(json_build_object(
        'type', 'text', 'text', json_build_object('value', $3::text || n, 'annotations', json_build_array()))),
    '[]', '{}', 1767225600
FROM thread, generate_series(1, $2::int) AS n
"""
QUEUED = """
INSERT INTO runs (id, thread_id, assistant_id, created_at, status, expires_at, model, instructions, tools,
    tool_resources, metadata, temperature, top_p, truncation_strategy, response_format, tool_choice,
    parallel_tool_calls, waiting, project_id, placed, attempt, losses, wake_at)
SELECT 'run_' || substr(md5(random()::text || threads.id), 1, 24), threads.id, $2, at, 'queued', at + $3::int, $4,
    'You are a helpful assistant.', '[]', '{}', '{}', 1.0, 1.0, '{"type": "auto", "last_messages": null}', '"auto"',
    '"auto"', true, false, project_id, true, 0, 0, now() + interval '55 seconds'
FROM threads, (SELECT floor(extract(epoch FROM now()))::bigint AS at) AS now WHERE threads.id = ANY($1::text[])
RETURNING id
"""
OLD_THREADS = """
INSERT INTO threads (id, project_id, created_at, tool_resources, metadata, on_active_run)
SELECT 'thread_old' || lpad(n::text, 21, '0'), project.id, 1767225600, '{}', '{}', 'reject'
FROM (SELECT id FROM projects ORDER BY created_at LIMIT 1) AS project, generate_series(0, 9999) AS n
"""
OLD_RUNS = """
INSERT INTO runs (id, thread_id, assistant_id, created_at, status, started_at, expires_at, completed_at, usage, model,
    instructions, tools, tool_resources, metadata, temperature, top_p, truncation_strategy, response_format,
    tool_choice, parallel_tool_calls, waiting, project_id, placed, attempt, losses)
SELECT 'run_old' || lpad(n::text, 21, '0'), 'thread_old' || lpad((n % 10000)::text, 21, '0'), $1, 1767225600,
    'completed', 1767225601, 1767226200, 1767225602, '{"total_tokens": 1}', 'bench', 'You are a helpful assistant.',
    '[]', '{}', '{}', 1.0, 1.0, '{"type": "auto", "last_messages": null}', '"auto"', '"auto"', true, false, project.id,
    false, 1, 0
FROM (SELECT id FROM projects ORDER BY created_at LIMIT 1) AS project, generate_series($2::int, $3::int) AS n
"""
OLD_ATTEMPTS = """
INSERT INTO run_attempts (run_id, attempt, worker, started_at, ended_at, outcome)
SELECT 'run_old' || lpad(n::text, 21, '0'), 1, 'w', now(), now(), 'completed' FROM generate_series($1::int, $2::int) n
"""
SLICE = 100_000


async def long_thread(connection: Any, name: str, messages: int) -> str:
    """A thread of so many messages of some twenty tokens each; its id. `name` has at most twelve letters."""
    thread_id = f"thread_{name:x<24}"
    await connection.execute(THREAD, thread_id, messages, WORDS)
    return thread_id


async def queue_runs(connection: Any, threads: list[str], model: str) -> list[str]:
    """A queued run on each of the threads, which have none; their ids."""
    return [row[0] for row in await connection.fetch(QUEUED, threads, ASSISTANT, LIFETIME, model)]


async def old_runs(connection: Any, count: int) -> None:
    """So many runs that are over, on ten thousand threads, with an attempt each; looked at by the planner."""
    await connection.execute(OLD_THREADS)
    for first in range(0, count, SLICE):
        last = min(count, first + SLICE) - 1
        await connection.execute(OLD_RUNS, ASSISTANT, first, last)
        await connection.execute(OLD_ATTEMPTS, first, last)
    await settle(connection)


async def settle(connection: Any) -> None:
    """What autovacuum would do in its own time."""
    await connection.execute("VACUUM (ANALYZE) runs, run_attempts, messages, threads, run_steps")
    await connection.execute("CHECKPOINT")
