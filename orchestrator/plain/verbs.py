"""The verbs of the plain case: what they return is done and told, and None says that nothing was done.

Requests that come at about the same time travel together. They do not share their fate: what is not plain is left out
of a statement's answer, and if Postgres refuses a statement as a whole, each of its requests takes the long way alone.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple, cast

import asyncpg
import structlog

from orchestrator import db, ids, lifecycle, message_files, places, queue, runs, threads
from orchestrator.batching import Batch, GivingWay
from orchestrator.db import Database
from orchestrator.direct import Direct
from orchestrator.events.frames import START, Track
from orchestrator.foreign import Json
from orchestrator.plain import statements
from orchestrator.runs import Resumed
from orchestrator.tables import Message, Run, RunStep, Thread, now, records
from orchestrator.tables.records import Record
from orchestrator.wire import objects
from orchestrator.wire.requests import (
    CreateMessage,
    CreateRun,
    CreateThread,
    CreateThreadAndRun,
    ListMessagesQuery,
    ListQuery,
    SubmitToolOutputs,
)

log = structlog.get_logger(__name__)

CREATIONS: Final = places.MARGIN // 8
"""Runs that one statement creates; see `places.MARGIN`."""
THREADS_LANES: Final = 2
"""Statements that create runs with new threads, which nobody else can be at: while one is carried out, the next is."""
RESUMPTIONS: Final = places.MARGIN // 16
"""Runs that get their outputs at once: they take places, too."""
REQUESTS: Final = 64
GIVING_WAY: Final = 0.008
"""Seconds: about what it takes to create fifty runs that were asked for at once."""

Asked = dict[str, Json]


class Made(NamedTuple):
    """A run that was created, and its wire object as it was told."""

    run: Run
    data: bytes


class Plain:
    """One per process."""

    def __init__(self, database: Database, direct: Direct, lifetime: int) -> None:
        """`lifetime` is that of runs, in seconds."""
        self._database = database
        self._direct = direct
        self._lifetime = lifetime
        self._near: Asked = places.asked(database.bounds, "")
        self._roomy = not places.crowded(database.bounds, waiting=False, near=False)
        self._message = Batch(self._add_messages, most=REQUESTS, lanes=1)  # two would meet at one thread's lock
        self._found = Batch(self._retrieve_runs, most=REQUESTS)
        self._run = Batch(partial(self._create, statements.CREATE_RUNS), most=CREATIONS, lanes=1)
        with_threads = partial(self._create, statements.CREATE_THREADS_AND_RUNS)
        self._thread_and_run = Batch(with_threads, most=CREATIONS, lanes=THREADS_LANES)
        self._outputs = Batch(self._submit_outputs, most=RESUMPTIONS, lanes=1)
        self.give_way = GivingWay(self._run, self._thread_and_run, seconds=GIVING_WAY)
        """For whoever wants to hear of a run that was created: others may be created first."""

    async def add_message(self, project_id: str, thread_id: str, body: CreateMessage) -> Message | None:
        """`messages.create`."""
        said = _said([body])
        if said is None:
            return None
        asked = {"project_id": project_id, "thread_id": thread_id, "at": now(), **said[0]}
        return _message(asked) if await self._message(asked) else None

    async def create_run(self, project_id: str, thread_id: str, body: CreateRun) -> Made | None:
        """`runs.create`."""
        said = _said(body.additional_messages or ())
        if said is None or not self._roomy:
            return None
        asked = {
            **self._asked(project_id, thread_id, body),
            "messages": said,
            "additional": body.additional_instructions,
        }
        run = _own(await self._run(asked))
        return None if run is None else await self._told(run)

    async def create_thread_and_run(self, project_id: str, body: CreateThreadAndRun) -> Made | None:
        """`runs.create_with_thread`."""
        thread = body.thread or CreateThread()
        said = _said(thread.messages)
        if said is None or not self._roomy:
            return None
        columns = threads.settings(thread)
        asked = {**self._asked(project_id, ids.new("thread_"), body), "messages": said, "thread": columns}
        run = _own(await self._thread_and_run(asked))
        if run is None:
            return None
        opened = cast("Thread", Record({**columns, "id": run.thread_id, "created_at": asked["at"]}))
        return await self._told(run, ("thread.created", objects.dump(objects.thread(opened))))

    async def submit_tool_outputs(
        self, project_id: str, thread_id: str, run_id: str, body: SubmitToolOutputs
    ) -> Resumed | None:
        """`runs.submit_tool_outputs`."""
        outputs = {each.tool_call_id: each.output or "" for each in body.tool_outputs}
        if len(outputs) < len(body.tool_outputs) or not self._roomy:
            return None
        asked = {"project_id": project_id, "thread_id": thread_id, "id": run_id, "at": now()}
        resumed = await self._outputs({**asked, "outputs": outputs, "ids": list(outputs)})
        if resumed is None:
            return None
        run, step = resumed
        answered = objects.dump(objects.run_step(step, run.expires_at))
        await self._begun(
            run, ("thread.run.step.completed", answered), ("thread.run.queued", objects.dump(objects.run(run)))
        )
        return Resumed(run, START._replace(attempt=run.attempt), step.id)

    async def retrieve_run(self, project_id: str, thread_id: str, run_id: str) -> Run | None:
        """`runs.retrieve`."""
        return await self._found((project_id, thread_id, run_id))

    async def list_messages(
        self, project_id: str, thread_id: str, query: ListMessagesQuery
    ) -> tuple[list[Message], bool] | None:
        """`messages.list_`."""
        found = await self._page(project_id, thread_id, "messages", query, query.run_id)
        return cast("tuple[list[Message], bool] | None", found)

    async def list_runs(self, project_id: str, thread_id: str, query: ListQuery) -> tuple[list[Run], bool] | None:
        """`runs.list_`."""
        found = await self._page(project_id, thread_id, "runs", query, None)
        return cast("tuple[list[Run], bool] | None", found)

    # -- what is asked, and what is told --

    def _asked(self, project_id: str, thread_id: str, body: CreateRun | CreateThreadAndRun) -> Asked:
        given = runs.given(body)
        return {
            **given,
            "project_id": project_id,
            "thread_id": thread_id,
            "id": ids.new("run_"),
            "assistant_id": body.assistant_id,
            "metadata": body.metadata,
            "lifetime": self._lifetime,
            "at": now(),
        }

    async def _told(self, run: Run, *before: tuple[str, bytes]) -> Made:
        data = objects.dump(objects.run(run))
        await self._begun(run, *before, ("thread.run.created", data), ("thread.run.queued", data))
        return Made(run, data)

    async def _begun(self, run: Run, *events: tuple[str, bytes]) -> None:
        """Tell the first events of a run's attempt, and wake a worker."""
        track, publisher = Track(run.id, run.attempt), self._database.publisher
        for event, data in events:
            publisher.frame(track.frame(event, data))
        publisher.push(*queue.message(lifecycle.EXECUTE, run.id, run.attempt))
        await publisher.flush()

    # -- what many have asked for --

    async def _add_messages(self, asked: list[Asked]) -> list[bool]:
        done = {row["id"] for row in await self._fetch(statements.ADD_MESSAGES, asked)}
        return [each["id"] in done for each in asked]

    async def _create(self, statement: str, asked: list[Asked]) -> list[Run | ValueError | None]:
        rows = await self._fetch(statement, asked, self._near["near"], self._near.get("near_all"))
        made = {row["id"]: _read(row) for row in rows}
        return [made.get(each["id"]) for each in asked]

    async def _submit_outputs(self, asked: list[Asked]) -> list[tuple[Run, RunStep] | None]:
        first = {each["id"]: each for each in reversed(asked)}  # of several for one run the others come too late
        done: dict[str, tuple[Run, RunStep]] = {}
        sent = list(first.values())
        for row in await self._fetch(
            statements.SUBMIT_TOOL_OUTPUTS, sent, self._near["near"], self._near.get("near_all")
        ):
            with suppress(ValueError):  # as in `_retrieve_runs`; housekeeping wakes a worker for the run
                run, step = statements.RUN.values(row[: len(statements.RUN)]), row[len(statements.RUN) :]
                done[run["id"]] = records.run(run), records.of(RunStep, statements.STEP.values(step))
        return [done.get(each["id"]) if first[each["id"]] is each else None for each in asked]

    async def _retrieve_runs(self, asked: list[tuple[str, str, str]]) -> list[Run | None]:
        found: list[Run | None] = [None] * len(asked)
        for row in await self._fetch(statements.RETRIEVE_RUNS, *map(list, zip(*asked, strict=True))):
            with suppress(ValueError):  # what cannot be read is the trouble of who asked for it, and of nobody else
                found[row[0] - 1] = records.run(statements.RUN.values(row[1:]))
        return found

    async def _page(
        self, project_id: str, thread_id: str, table: str, query: ListQuery, run_id: str | None
    ) -> tuple[list[Record], bool] | None:
        after, before = query.after is not None, query.before is not None
        statement = statements.page(table, query.order, after=after, before=before, of_run=run_id is not None)
        asked = (project_id, thread_id, query.limit + 1, query.after, query.before, run_id)
        rows = await self._fetch(statement, *asked)
        if not rows:  # an empty list, or no thread, or no such cursor
            return None
        columns = statements.MESSAGE if table == "messages" else statements.RUN
        kept = [Record(columns.values(row)) for row in rows[: query.limit]]
        return kept[::-1] if before and not after else kept, len(rows) > query.limit

    async def _fetch(self, statement: str, *arguments: Json) -> list[Json]:
        """The rows; none if Postgres has refused the statement, and so done nothing."""
        try:
            return await self._direct.fetch(statement, *arguments)
        except asyncpg.PostgresError as error:
            if db.passes(error):
                raise
            log.warning("plain_statement_refused", error=db.describe(error))
            return []


def _read(row: Json) -> Run | ValueError:
    """A run, or why it cannot be read: its assistant may hold what nobody can read."""
    try:
        return records.run(statements.RUN.values(row))
    except ValueError as error:
        return error


def _own(made: Run | ValueError | None) -> Run | None:
    """What cannot be read is the trouble of who asked for it, and of nobody else."""
    if isinstance(made, ValueError):
        raise made
    return made


def _said(bodies: Sequence[CreateMessage]) -> list[Asked] | None:
    """The columns of messages; None if one of them names a file, which would have to be looked up."""
    if any(message_files.named(body) for body in bodies):
        return None
    return [_renamed(threads.message_columns(body)) for body in bodies]


def _renamed(columns: Asked) -> Asked:
    return {"id": ids.new("msg_"), "metadata": columns.pop("metadata_"), **columns}


EMPTY: Final = dict.fromkeys(("assistant_id", "run_id", "incomplete_details", "incomplete_at"))


def _message(asked: Asked) -> Message:
    at, pairs = asked["at"], asked["metadata"]
    columns = {**EMPTY, **asked, "created_at": at, "completed_at": at, "metadata_": pairs, "status": "completed"}
    return cast("Message", Record(columns))
