"""The rows of runs for benchmarks of one process: made beforehand in bulk, looked through afterwards.

Each run has a thread of its own, and what the scripted model answers follows from the model's name.
Nothing here is what is measured.
"""

import asyncio
import secrets
from dataclasses import dataclass
from typing import Any

import asyncpg
import orjson

from bench import scripts
from orchestrator import queue

LIFETIME = 3600
LONGEST = 600.0
"""Seconds after which runs are given up."""
EXECUTE = "runs.execute"

ASSISTANT = "asst_bench0000000000000000000"
SEEDED = """
WITH one AS (SELECT n, lpad(n::text, 12, '0') AS tail FROM generate_series(1, $2::int) AS n),
now AS (SELECT floor(extract(epoch FROM now()))::bigint AS at),
threads AS (
    INSERT INTO threads (id, project_id, created_at, tool_resources, metadata, on_active_run)
    SELECT 'thread_' || $1 || tail, $3, at, '{}', '{}', 'reject' FROM one, now RETURNING 1
),
messages AS (
    INSERT INTO messages (id, thread_id, created_at, role, status, content, attachments, metadata, completed_at)
    SELECT 'msg_' || $1 || lpad(m::text, 4, '0') || lpad(n::text, 8, '0'), 'thread_' || $1 || tail, at,
        CASE WHEN ($5::int - m) % 2 = 0 THEN 'user' ELSE 'assistant' END, 'completed',
        '[{"type": "text", "text": {"value": "What shall we have for dinner?", "annotations": []}}]', '[]', '{}', at
    FROM one, now, generate_series(1, $5::int) AS m ORDER BY n, m RETURNING 1
)
INSERT INTO runs (id, thread_id, assistant_id, created_at, status, expires_at, model, instructions, tools,
    tool_resources, metadata, temperature, top_p, truncation_strategy, response_format, tool_choice,
    parallel_tool_calls, waiting, project_id, placed, attempt, losses, wake_at)
SELECT 'run_' || $1 || tail, 'thread_' || $1 || tail, $6, at, 'queued', at + $7::int, $4,
    'You are a helpful assistant.', '[]', '{}', '{}', 1.0, 1.0, '{"type": "auto", "last_messages": null}', '"auto"',
    '"auto"', true, false, $3, true, 0, 0, now() + interval '55 seconds'
FROM one, now, (SELECT count(*) FROM threads) AS t, (SELECT count(*) FROM messages) AS m
RETURNING id
"""
WRONG = """
SELECT count(*) FROM unnest($1::text[]) AS asked(id) WHERE NOT EXISTS (
    SELECT FROM runs JOIN messages ON messages.run_id = runs.id JOIN run_steps ON run_steps.run_id = runs.id
    JOIN run_attempts ON run_attempts.run_id = runs.id
    WHERE runs.id = asked.id AND runs.status = 'completed' AND runs.usage ->> 'total_tokens' IS NOT NULL
    AND messages.status = 'completed' AND messages.content -> 0 -> 'text' ->> 'value' = $2
    AND run_steps.status = 'completed' AND run_attempts.outcome = 'completed' AND run_attempts.ended_at IS NOT NULL)
"""
UNFINISHED = "SELECT 1 FROM runs WHERE status IN ('queued', 'in_progress', 'requires_action', 'cancelling') LIMIT 1"


@dataclass(frozen=True, slots=True)
class Seeded:
    """Runs that wait for a worker: their ids, and what each shall have said in the end."""

    ids: list[str]
    answer: str


async def connect(url: str) -> Any:
    """A connection for seeding and looking; statements may take their time."""
    return await asyncpg.connect(url, command_timeout=600)


async def seed(connection: Any, count: int, model: str, *, messages: int = 1) -> Seeded:
    """Make so many queued runs of this scripted model, each on a thread of so many messages."""
    project = await connection.fetchval("SELECT id FROM projects ORDER BY created_at LIMIT 1")
    tag = secrets.token_hex(6)
    rows = await connection.fetch(SEEDED, tag, count, project, model, messages, ASSISTANT, LIFETIME)
    return Seeded([row[0] for row in rows], answer_of(model))


def answer_of(model: str) -> str:
    """What the scripted model says in the end."""
    said: str = orjson.loads(scripts.whole(model))["choices"][0]["message"]["content"]
    return said


def wake_ups(ids: list[str]) -> tuple[str, list[bytes]]:
    """The broker's list, and the messages that wake a worker for these runs."""
    return queue.QUEUE, [queue.message(EXECUTE, run_id, 0)[1] for run_id in ids]


async def wrong(connection: Any, seeded: Seeded) -> int:
    """How many of the runs are not completed, or did not say what they should, or left something open."""
    found: int = await connection.fetchval(WRONG, seeded.ids, seeded.answer)
    return found


async def finished(connection: Any) -> None:
    """Return when no run is unfinished, of any seed. Raises TimeoutError if that takes too long."""
    async with asyncio.timeout(LONGEST):
        while await connection.fetchval(UNFINISHED) is not None:  # noqa: ASYNC110  # another process' doing
            await asyncio.sleep(0.01)
