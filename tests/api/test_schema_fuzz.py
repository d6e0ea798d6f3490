"""Our own OpenAPI document against the running server, by schemathesis: nothing undocumented, nothing of ours broken.

A project and an API process of its own, so that what it leaves behind is met by nobody. Two fuzzers share the
operations, each with objects of its own, so that what one sends does not depend on how far the other is.
`FUZZ_EXAMPLES` says how many cases of each operation are drawn at random (besides those at all the bounds, which are
always the same); the default keeps the run within a minute.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import delete, select
from sqlmodel import col

from orchestrator import db, projects
from orchestrator.settings import Settings
from orchestrator.tables import IS_ACTIVE, Project, Run, Thread
from tests.api.checks import Json
from tests.api.http import Http
from tests.fuzz.supply import EXPENDABLE, PATH, Supply, stocked
from tests.stack import ROOT, Stack

KEY = "sk-asst-fuzz-0123456789abcdef"
EXAMPLES = os.environ.get("FUZZ_EXAMPLES", "2")
LONGEST = 280.0
"""Seconds that the slowest machine has; a quiet one needs 25."""
THREADS = r"^/v1/threads($|/\{)"
SHARES = (f"--include-path-regex={THREADS}", f"--exclude-path-regex={THREADS}")
"""Which operations each fuzzer tries: all of them together, and about as much to do for each."""
NAME = col(Project.name) == "fuzz"


@pytest.fixture
def address(working: Stack) -> Iterator[str]:
    """An API process for a project that ends with the test."""
    asyncio.run(_open_project(working.settings))
    with working.api() as base_url:
        yield base_url
    asyncio.run(_forget_project(working.settings))


@pytest.fixture
def document(address: str) -> Json:
    return httpx2.get(f"{address.removesuffix('/v1')}/openapi.json", timeout=60).json()  # its making takes seconds


@pytest.mark.timeout(0 if "FUZZ_EXAMPLES" in os.environ else LONGEST + 60)
def test_no_generated_request_meets_an_error_of_ours_or_an_answer_that_is_not_documented(
    address: str, document: Json, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(len(SHARES)) as pool:
        fuzzing = [pool.submit(_fuzzed, address, document, share, tmp_path) for share in SHARES]
    finished = [fuzzer.result() for fuzzer in fuzzing]

    failed = [fuzzer.stdout for fuzzer in finished if fuzzer.returncode]
    assert not failed, "\n".join(failed)


def _fuzzed(address: str, document: Json, share: str, parent: Path) -> "subprocess.CompletedProcess[str]":
    """What became of a fuzzer that tries its share of the operations."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    stock = folder / "supply.json"
    http = Http(address, KEY)
    with http.client:
        supply = stocked(http)
    _check_that_every_route_is_supplied(document, supply)
    stock.write_text(json.dumps(supply))
    return subprocess.run(
        [*_command(address, folder), share],
        cwd=ROOT,
        env={**os.environ, PATH: str(stock), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=None if "FUZZ_EXAMPLES" in os.environ else LONGEST,
        check=False,
    )


def _command(address: str, folder: Path) -> list[str]:
    program = Path(sys.executable).with_name("schemathesis")
    settings = ROOT / "tests" / "fuzz" / "schemathesis.toml"
    what = f"{address.removesuffix('/v1')}/openapi.json"
    authorization = f"Authorization: Bearer {KEY}"
    report = f"--report-ndjson-path={folder / 'fuzz.ndjson'}"
    return [
        *(str(program), "--config-file", str(settings), "--no-color", "run", what),
        *("--header", authorization, "--max-examples", EXAMPLES, report),
    ]


def _check_that_every_route_is_supplied(document: Json, supply: Supply) -> None:
    """Fails for a new route until tests/fuzz/supply.py knows what to put into its path."""
    routes = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    wanted = {name for path in document["paths"] for name in re.findall(r"{(\w+)}", path)}
    known = set.intersection(*(set(scene) for scene in supply["scenes"]))

    assert wanted <= known, f"no ids for {sorted(wanted - known)}"
    assert {route for route in routes if route.startswith("DELETE")} <= set(EXPENDABLE), "nothing to delete"
    assert set(EXPENDABLE) <= routes, "no such route any more"


async def _open_project(settings: Settings) -> None:
    async with _transaction(settings) as session:
        await projects.register(session, KEY, "fuzz")


async def _forget_project(settings: Settings) -> None:
    """Once its last runs have ended, or wait for somebody, all that the run left behind goes with its project."""
    ours = select(col(Thread.id)).join(Project, col(Project.id) == col(Thread.project_id)).where(NAME)
    moving = select(col(Run.id), col(Run.status)).where(
        col(Run.thread_id).in_(ours), IS_ACTIVE, col(Run.status) != "requires_action"
    )
    deadline = time.monotonic() + 30
    async with _transaction(settings) as session:
        while left := (await session.execute(moving)).all():
            assert time.monotonic() < deadline, left
            await asyncio.sleep(0.1)
    async with _transaction(settings) as session:
        await session.execute(delete(Project).where(NAME))


@asynccontextmanager
async def _transaction(settings: Settings) -> AsyncIterator[db.Session]:
    engine = db.engine(settings)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.dispose)
        session = await stack.enter_async_context(db.Session(engine))
        await stack.enter_async_context(session.begin())
        yield session
