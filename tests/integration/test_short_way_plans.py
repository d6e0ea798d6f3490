"""The short way's statements walk indexes in tables that hold many other rows: none is read that is not asked for."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from orchestrator.plain import statements
from orchestrator.resources import Resources
from tests.integration.crowd import LONG, PROJECT, RARE

Json = Any

CURSORS = [(after, before) for after in (False, True) for before in (False, True)]


async def explained(crowded: Resources, statement: str, *arguments: Json) -> list[Json]:
    """The nodes of the statement's plan."""
    assert crowded.database.direct is not None
    (row,) = await crowded.database.direct.fetch(f"EXPLAIN (FORMAT JSON) {statement}", *arguments)
    found = row[0]
    return list(nodes((orjson.loads(found) if isinstance(found, str) else found)[0]["Plan"]))


def nodes(plan: Json) -> Iterator[Json]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def read(plan: list[Json]) -> set[tuple[str, str]]:
    """Which tables are read, and how: by which index, or else by what."""
    return {(node["Relation Name"], node.get("Index Name", node["Node Type"])) for node in plan if scans(node)}


def scans(node: Json) -> bool:
    return "Relation Name" in node and node["Node Type"] != "ModifyTable"


@pytest.mark.parametrize(("after", "before"), CURSORS)
@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize(("table", "of_run"), [("messages", False), ("messages", True), ("runs", False)])
async def test_a_page_is_walked_along_one_index(
    crowded: Resources, table: str, of_run: bool, order: str, after: bool, before: bool
) -> None:
    statement = statements.page(table, order, after=after, before=before, of_run=of_run)
    cursors = ("msg_x" if after else None, "msg_x" if before else None)

    plan = await explained(crowded, statement, PROJECT, LONG, 21, *cursors, RARE if of_run else None)

    along = {
        ("messages", False): "messages_thread_id_position",
        ("messages", True): "messages_run_id_thread_id_position",
        ("runs", False): "runs_thread_id_position",
    }
    assert not {node["Node Type"] for node in plan} & {"Sort", "Incremental Sort", "Seq Scan", "Bitmap Heap Scan"}
    walked = [index for of, index in read(plan) if of == table and not index.endswith("_pkey")]
    assert walked == [along[table, of_run]], read(plan)


@pytest.mark.parametrize("statement", [statements.CREATE_RUNS, statements.CREATE_THREADS_AND_RUNS])
async def test_a_creation_reads_by_key_and_what_moves_by_the_indexes_of_what_moves(
    crowded: Resources, statement: str
) -> None:
    plan = await explained(crowded, statement, [], 871, 871)

    allowed = {
        *(("threads", "threads_pkey"), ("assistants", "assistants_pkey"), ("runs", "runs_one_active_per_thread")),
        *(("runs", "runs_with_a_place"), ("runs", "runs_without_a_place")),
    }
    assert read(plan) <= allowed


async def test_runs_are_retrieved_by_their_keys(crowded: Resources) -> None:
    plan = await explained(crowded, statements.RETRIEVE_RUNS, ["proj"], ["thread"], ["run"])

    assert read(plan) == {("runs", "runs_pkey"), ("threads", "threads_pkey")}


async def test_a_run_that_gets_its_outputs_is_found_by_its_key_and_its_step_from_the_newest(crowded: Resources) -> None:
    plan = await explained(crowded, statements.SUBMIT_TOOL_OUTPUTS, [], 871, 871)

    allowed = {
        *(("threads", "threads_pkey"), ("runs", "runs_pkey"), ("run_steps", "run_steps_pkey")),
        *(("run_steps", "run_steps_run_id_position"), ("runs", "runs_with_a_place"), ("runs", "runs_without_a_place")),
    }
    assert read(plan) <= allowed
    whole = {node.get("Index Name") for node in plan if scans(node) and "Index Cond" not in node}
    assert whole <= {"runs_with_a_place"}  # where all projects share a bound
