"""The three statements of a plain run, each for up to a hundred runs at once: what `limits_direct` writes.

They write the rows that the product writes for such a run (runs, run_attempts, messages, run_steps), fenced and locked
as the product does it (thread before run), and serve no other case: no tools, no cancel, no turn to hand on.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

MOST = 100
"""Rows of one statement."""
IN_FLIGHT = 2
"""Statements of one kind that are under way at once."""

CLAIM = """
WITH claimed AS (
    UPDATE runs SET status = 'in_progress', started_at = floor(extract(epoch FROM now()))::bigint, owner = $2,
        lease_until = now() + interval '200 seconds', attempt = attempt + 1
    FROM unnest($1::text[]) AS asked(run) WHERE id = run AND status = 'queued' AND placed AND NOT waiting
        AND expires_at > extract(epoch FROM now())
    RETURNING id, thread_id, assistant_id, created_at, started_at, expires_at, attempt, model, instructions, tools,
        tool_resources, metadata, temperature, top_p, truncation_strategy, response_format, tool_choice,
        parallel_tool_calls
), opened AS (
    INSERT INTO run_attempts (run_id, attempt, worker, started_at) SELECT id, attempt, $3, now() FROM claimed
)
SELECT claimed.*, (SELECT json_agg(json_build_array(role, content) ORDER BY position) FROM (
    SELECT role, content, position FROM messages WHERE messages.thread_id = claimed.thread_id
        AND (run_id IS NULL OR run_id <> claimed.id) AND status <> 'in_progress'
        AND (incomplete_details IS NULL OR incomplete_details ->> 'reason' <> 'run_failed')
    ORDER BY position DESC LIMIT 100) AS newest) AS said
FROM claimed
"""
OPEN = """
WITH given AS (SELECT * FROM unnest($1::text[], $2::int[], $3::text[], $4::text[], $5::bigint[])
    AS given(run, fence, message, step, at)),
held AS (
    SELECT given.*, thread_id, assistant_id FROM runs JOIN given ON id = run
    WHERE attempt = fence AND owner = $6 AND status = 'in_progress' FOR NO KEY UPDATE OF runs
), said AS (
    INSERT INTO messages (id, thread_id, created_at, role, status, content, attachments, metadata, assistant_id, run_id)
    SELECT message, thread_id, at, 'assistant', 'in_progress', '[]', '[]', '{}', assistant_id, run FROM held
)
INSERT INTO run_steps (id, run_id, thread_id, assistant_id, created_at, type, status, step_details, metadata)
SELECT step, run, thread_id, assistant_id, at, 'message_creation', 'in_progress',
    json_build_object('type', 'message_creation', 'message_creation', json_build_object('message_id', message)), '{}'
FROM held RETURNING run_id
"""
FINISH = """
WITH given AS (SELECT * FROM unnest($1::text[], $2::int[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[])
    AS given(run, fence, message, step, said, used, at)),
locked AS (
    SELECT threads.id FROM threads WHERE id IN (SELECT thread_id FROM runs JOIN given ON id = run)
    ORDER BY threads.id FOR NO KEY UPDATE
), done AS (
    UPDATE runs SET status = 'completed', completed_at = floor(extract(epoch FROM now()))::bigint, owner = NULL,
        lease_until = NULL, placed = false, usage = used::json, required_action = NULL, additional_messages = NULL
    FROM given, locked WHERE runs.id = run AND thread_id = locked.id AND attempt = fence AND owner = $8
        AND status = 'in_progress'
    RETURNING given.*, thread_id, completed_at
), told AS (
    UPDATE messages SET status = 'completed', completed_at = at, content = said::json FROM done WHERE id = message
), stepped AS (
    UPDATE run_steps SET status = 'completed', completed_at = at, usage = used::json FROM done WHERE id = step
), closed AS (
    UPDATE run_attempts SET ended_at = now(), outcome = 'completed' FROM done
    WHERE run_id = run AND ended_at IS NULL
)
SELECT run, completed_at, EXISTS (SELECT FROM runs AS next WHERE next.thread_id = done.thread_id AND waiting) FROM done
"""

Row = tuple[Any, ...]


class Batch:
    """One kind of statement. Calls that come while others are under way travel together; `trips` are counted."""

    def __init__(self, work: Callable[[list[Row]], Awaitable[list[Any]]]) -> None:
        self.trips = 0
        self._work = work
        self._waiting: list[tuple[Row, asyncio.Future[Any]]] = []
        self._workers: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def __call__(self, *row: Any) -> asyncio.Future[Any]:
        """What the statement returns for the row, whose first column is its key."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append((row, future))
        if len(self._workers) < IN_FLIGHT:
            worker = self._loop.create_task(self._carry_out())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        return future

    async def _carry_out(self) -> None:
        await asyncio.sleep(0)
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            self.trips += 1
            try:
                found = {row[0]: row for row in await self._work([row for row, _ in batch])}
                for row, future in batch:
                    future.set_result(found[row[0]])
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)


async def _unreset(_connection: Any) -> None:
    """Nothing is left behind on a connection that would have to be reset."""


class Statements:
    """The three of them, under the name of one worker. Use `opened`."""

    def __init__(self, pool: Any, owner: str) -> None:
        self._pool = pool
        self._owner = owner
        self.claim = Batch(self._claim)
        self.open = Batch(self._open)
        self.finish = Batch(self._finish)

    @classmethod
    async def opened(cls, url: str, owner: str) -> "Statements":
        """Connect, as often as statements may be under way."""
        connections = 3 * IN_FLIGHT
        pool = await asyncpg.create_pool(
            url,
            min_size=connections,
            max_size=connections,
            reset=_unreset,
            command_timeout=60,
            max_inactive_connection_lifetime=0,
        )
        return cls(pool, owner)

    async def close(self) -> None:
        """Give the connections back."""
        await self._pool.close()

    async def _claim(self, rows: list[Row]) -> list[Any]:
        found: list[Any] = await self._pool.fetch(CLAIM, sorted(row[0] for row in rows), self._owner, "direct")
        return found

    async def _open(self, rows: list[Row]) -> list[Any]:
        found: list[Any] = await self._pool.fetch(OPEN, *map(list, zip(*rows, strict=True)), self._owner)
        return found

    async def _finish(self, rows: list[Row]) -> list[Any]:
        found: list[Any] = await self._pool.fetch(FINISH, *map(list, zip(*rows, strict=True)), self._owner)
        return found
