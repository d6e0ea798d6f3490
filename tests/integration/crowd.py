"""A database whose tables are full and analysed, for tests of plans: Postgres goes by what it knows of the tables.

It is a database of its own. In one that others write to as well, Postgres knows what it happened to see of their rows:
an analysis of next to nothing makes any index as good as the right one, one of a single long thread makes a scan of all
there is no worse than a walk along it. And where others have deleted rows, those that are put in their places lie in an
order that costs more to walk.
"""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import insert, text
from sqlmodel import SQLModel

from orchestrator.db import Database
from orchestrator.tables import Assistant, File, Message, Project, Run, RunStep, Thread

Json = Any

PROJECT, ANOTHER = "proj_crowded", "proj_another"
"""The project of all rows, whose runs wait for places; and one that has nothing yet."""
LONG, RARE, COMMON = "thread_long", "run_rare", "run_common"
DEEP = 10_000
"""Messages of the long thread; there are as many of others."""
MANY = 3_000
"""Runs of the long thread, steps of one run, assistants and threads of the project."""
HELD = 1_000
"""Runs that hold a place; as many as there are threads beyond them wait for one."""
STEPS = """
INSERT INTO run_steps
    (id, position, run_id, thread_id, assistant_id, created_at, type, status, step_details, metadata)
SELECT 'step_other_' || n, nextval('positions'), 'run_thread_' || n % :many, 'thread_' || n % :many, 'asst_0', 0,
    'tool_calls', 'completed', json_build_object('said', repeat('What was called, and what came of it. ', 10)), '{}'
FROM generate_series(1, 40000) n
"""
"""Steps of others, as large as those of runs are that call functions: to read them all is never the shorter way."""


async def fill(database: Database) -> None:
    """Put all rows into empty tables."""
    async with database.transaction() as session:
        for table, rows in _rows():
            described: Json = (
                {} if table is Project else {"metadata_": {}}
            )  # the one column whose default is the class's
            await session.execute(insert(table), [{**described, **row} for row in rows])
        await session.execute(text(STEPS), {"many": MANY})
    await analyse(database)


async def analyse(database: Database) -> None:
    """Have Postgres look at all tables, as it would in its own time."""
    async with database.transaction() as session:
        await session.execute(text("ANALYZE"))


def _rows() -> Iterator[tuple[type[SQLModel], list[dict[str, Json]]]]:
    others = [f"thread_{number}" for number in range(MANY)]
    users = [{"user": "one" if number == MANY // 2 else "many" if number % 3 else "few"} for number in range(MANY)]
    yield Project, [{"id": id_, "name": id_} for id_ in (PROJECT, ANOTHER)]
    yield Assistant, [{"id": f"asst_{number}", "project_id": PROJECT, "model": "m"} for number in range(MANY)]
    yield Thread, [{"id": LONG, "project_id": PROJECT, "metadata_": {}}]
    yield (
        Thread,
        [{"id": id_, "project_id": PROJECT, "metadata_": user} for id_, user in zip(others, users, strict=True)],
    )
    file = {"project_id": PROJECT, "filename": "a", "bytes": 1}
    purposes = ["vision" if number % 50 == 0 else "assistants" for number in range(MANY)]
    yield File, [{"id": f"file-{number}", "purpose": purpose, **file} for number, purpose in enumerate(purposes)]
    run = {"assistant_id": "asst_0", "model": "m", "expires_at": 0, "status": "completed"}
    ids = [COMMON, RARE, *(f"run_{number}" for number in range(MANY))]
    yield Run, [{"id": id_, "thread_id": LONG, **run} for id_ in ids]
    yield Run, [{"id": f"run_{id_}", "thread_id": id_, **run} for id_ in others]
    moving = {**run, "status": "queued", "expires_at": 9999999999, "project_id": PROJECT}
    yield (
        Run,
        [
            {"id": f"run_moving_{number}", "thread_id": id_, "placed": number < HELD, **moving}
            for number, id_ in enumerate(others)
        ],
    )
    yield Message, [_message(number, LONG, _run_of(number)) for number in range(DEEP)]
    yield Message, [_message(number, others[number % MANY], None) for number in range(DEEP, 2 * DEEP)]
    step = {"thread_id": LONG, "assistant_id": "asst_0", "type": "tool_calls", "status": "completed"}
    yield RunStep, [{"id": f"step_{number}", "run_id": COMMON, **step} for number in range(MANY)]
    yield RunStep, [{"id": f"step_{id_}", "run_id": id_, **step} for id_ in ids]


def _message(number: int, thread_id: str, run_id: str | None) -> dict[str, Json]:
    return {"id": f"msg_{number}", "thread_id": thread_id, "run_id": run_id, "role": "user"}


def _run_of(number: int) -> str:
    if number == DEEP // 2:
        return RARE
    return COMMON if number % 2 else f"run_{number % MANY}"
