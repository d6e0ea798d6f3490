"""Lists at any depth: Postgres walks an index to the page and along it, and neither sorts nor reads a whole table.

The statements are those that the verbs emit, caught on their way, in tables that hold many other rows besides. Each is
carried out with its values, and planned without them, as Postgres may keep it for a connection that asks often.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import ColumnElement, event, select
from sqlmodel import col

from orchestrator import assistants, files, messages, places, run_steps, runs, threads, turns
from orchestrator.bounds import Bounds
from orchestrator.db import Session
from orchestrator.resources import Resources
from orchestrator.tables import Assistant, File, Message, Run, RunStep, Thread
from orchestrator.wire.requests import ListFilesQuery, ListMessagesQuery, ListQuery, ListRunStepsQuery, ListThreadsQuery
from tests.integration.crowd import COMMON, HELD, LONG, MANY, PROJECT, RARE

Json = Any
Verb = Callable[..., Awaitable[Any]]
Statement = tuple[str, tuple[Json, ...]]
Case = tuple[Verb, type[Any], ColumnElement[bool]]

LIMIT = 20
TOUCHED = 4 * LIMIT
"""Rows that a page may cost."""
FORBIDDEN = {"Sort", "Incremental Sort", "Seq Scan", "Bitmap Heap Scan"}

FEW = frozenset({"Sort", "Bitmap Heap Scan"})
"""What Postgres may do with a few rows that it has found by an index: read them at once, and sort them."""


async def _messages(session: Session, **query: Json) -> None:
    await messages.list_(session, PROJECT, LONG, ListMessagesQuery(**query))


async def _runs(session: Session, **query: Json) -> None:
    await runs.list_(session, PROJECT, LONG, ListQuery(**query))


async def _steps(session: Session, **query: Json) -> None:
    await run_steps.list_(session, PROJECT, LONG, COMMON, ListRunStepsQuery(**query))


async def _assistants(session: Session, **query: Json) -> None:
    await assistants.list_(session, PROJECT, ListQuery(**query))


async def _threads(session: Session, **query: Json) -> None:
    await threads.list_(session, PROJECT, ListThreadsQuery(**query))


async def _files(session: Session, **query: Json) -> None:
    await files.list_(session, PROJECT, ListFilesQuery(**query))


async def _pictures(session: Session, **query: Json) -> None:
    await _files(session, purpose="vision", **query)


def _of_run(run_id: str) -> Verb:
    async def listed(session: Session, **query: Json) -> None:
        await _messages(session, run_id=run_id, **query)

    return listed


def _of_user(user: str) -> Verb:
    async def listed(session: Session, **query: Json) -> None:
        await _threads(session, metadata={"user": user}, **query)

    return listed


async def _standing(session: Session) -> None:
    await turns.standing(session, PROJECT, LONG)


async def _given(session: Session) -> None:
    await places.seek(session, PROJECT)


async def _vacancies(session: Session) -> None:
    await places.vacancies(session)


async def _queue(session: Session) -> None:
    await places.check_queue(session, PROJECT)


LOOKED_AT: dict[Verb, int] = {_standing: 2 * HELD + 10, _given: 3 * HELD, _vacancies: 3 * HELD, _queue: 2 * MANY}
"""Rows and entries of indexes that may be read: as many as hold a place, whatever else there is; a bitmap reads them
twice.
"""

LISTS: dict[str, Case] = {
    "messages": (_messages, Message, col(Message.thread_id) == LONG),
    "messages of a run with thousands": (_of_run(COMMON), Message, col(Message.run_id) == COMMON),
    "messages of a run with one": (_of_run(RARE), Message, col(Message.run_id) == RARE),
    "runs": (_runs, Run, col(Run.thread_id) == LONG),
    "run steps": (_steps, RunStep, col(RunStep.run_id) == COMMON),
    "assistants": (_assistants, Assistant, col(Assistant.project_id) == PROJECT),
    "threads": (_threads, Thread, col(Thread.project_id) == PROJECT),
    "threads of a user with hundreds": (_of_user("many"), Thread, col(Thread.metadata_).contains({"user": "many"})),
    "files": (_files, File, col(File.project_id) == PROJECT),
    "files of a purpose": (_pictures, File, col(File.purpose) == "vision"),
    "threads of a user with one": (_of_user("one"), Thread, col(Thread.metadata_).contains({"user": "one"})),
}


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("name", LISTS)
async def test_a_page_is_an_index_scan_wherever_it_begins(crowded: Resources, name: str, order: str) -> None:
    verb, table, scope = LISTS[name]
    async with crowded.database.transaction() as session:
        ids = (await session.execute(select(table.id).where(scope).order_by(table.position))).scalars().all()
    keys = ("after",) if table is File else ("after", "before")  # the original's list of files has no way back
    cursors = [{}, *({key: ids[place]} for key in keys for place in (0, len(ids) // 2, -1))]

    for cursor in cursors:
        async with crowded.database.transaction() as session:
            with _caught(session) as statements:
                await verb(session, order=order, limit=LIMIT, **cursor)
            (listed,) = statements
            await _check(session, listed, *((FEW, len(ids)) if " of a user " in name or "with one" in name else ()))


@contextmanager
def _caught(session: Session, word: str = "ORDER BY") -> Iterator[list[Statement]]:
    """The statements of the block that list rows, or hold another `word`, with their values."""
    found: list[Statement] = []

    def note(_1: Json, _2: Json, statement: str, values: Json, *_: Json) -> None:
        if word in statement:
            found.append((statement, tuple(values)))

    engine = session.get_bind().engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", note)


async def _check(session: Session, statement: Statement, allowed: frozenset[str] = frozenset(), found: int = 0) -> None:
    """Prepared, as the driver does it: Postgres plans it for its values first, and without them once it is common.

    Where `allowed`, all `found` rows may be fetched through an index and sorted: for threads of a user that can be less
    work than to walk past the threads of others.
    """
    connection: Json = (await (await session.connection()).get_raw_connection()).driver_connection
    await connection.execute(f"PREPARE listed AS {statement[0]}")
    asked = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE listed({', '.join(map(_literal, statement[1]))})"
    try:
        chosen = await connection.fetchval("SHOW plan_cache_mode")
        for mode in ("force_custom_plan", "force_generic_plan") if chosen == "auto" else (chosen,):
            await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
            _check_plan((await connection.fetchval(asked))[0]["Plan"], f"{mode}: {statement}", allowed, found)
    finally:
        await connection.execute("DEALLOCATE listed")


def _read(node: Json) -> float:
    return float((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"])


def _check_plan(plan: Json, which: str, allowed: frozenset[str], found: int) -> None:
    nodes = list(_nodes(plan))
    kinds = {node["Node Type"] for node in nodes}
    scans = [node for node in nodes if "Scan" in node["Node Type"]]
    read = sum(_read(node) for node in scans)
    assert kinds & {"Index Scan", "Index Only Scan", "Bitmap Index Scan"}, (which, plan)
    if all(node["Plan Rows"] <= TOUCHED for node in scans):  # at an end of the list, whatever the list is
        allowed = allowed | FEW
    assert not kinds & (FORBIDDEN - allowed), (which, plan)
    assert read <= TOUCHED + 2 * found, (which, plan)


def _literal(value: Json) -> str:
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"


def _nodes(node: Json) -> Iterator[Json]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


PLACES: dict[str, tuple[Verb, Bounds]] = {
    "a creation or an end, far from the bound": (_standing, Bounds(project=10 * HELD)),
    "a creation or an end, near the bound": (_standing, Bounds(project=HELD)),
    "the same where all projects share a bound": (_standing, Bounds(upstream=HELD)),
    "giving a place away": (_given, Bounds(project=HELD + 1)),
    "giving none away": (_given, Bounds(project=HELD)),
    "giving a shared one away": (_given, Bounds(project=HELD + 1, upstream=HELD + 1)),
    "housekeeping": (_vacancies, Bounds(project=HELD)),
    "housekeeping where all share a bound": (_vacancies, Bounds(upstream=HELD)),
    "the length of the queue": (_queue, Bounds(queue=10 * HELD)),
}
INDEXES = {"runs_with_a_place", "runs_without_a_place", "runs_waiting", "runs_one_active_per_thread", "runs_pkey"}


@pytest.mark.parametrize("name", PLACES)
async def test_places_are_counted_and_given_away_along_indexes_of_what_moves(crowded: Resources, name: str) -> None:
    """However many runs a project has had, and however many wait."""
    verb, bounds = PLACES[name]
    async with Session(crowded.database.engine) as session:  # what is given away is not kept
        session.bounds = bounds
        with _caught(session, "runs") as statements:
            await verb(session)
        await session.rollback()
        assert statements

        for statement, values in statements:
            for mode in ("force_custom_plan", "force_generic_plan"):
                plan = await _explained(session, statement, values, mode)
                nodes = list(_nodes(plan))
                indexes = {node["Index Name"] for node in nodes if "Index Name" in node}
                read = sum(_read(node) for node in nodes if "Scan" in node["Node Type"])
                assert indexes, (mode, plan)
                assert indexes <= INDEXES, (mode, plan)
                assert "Seq Scan" not in {node["Node Type"] for node in nodes}, (mode, plan)
                assert read <= LOOKED_AT[verb], (mode, plan)
                await session.rollback()


async def _explained(session: Session, statement: str, values: tuple[Json, ...], mode: str) -> Json:
    connection: Json = (await (await session.connection()).get_raw_connection()).driver_connection
    await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
    await connection.execute(f"PREPARE asked AS {statement}")
    try:
        given = f"({', '.join(map(_literal, values))})" if values else ""
        asked = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE asked{given}"
        return (await connection.fetchval(asked))[0]["Plan"]
    finally:
        await connection.execute("DEALLOCATE asked")
