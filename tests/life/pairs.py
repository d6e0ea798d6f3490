"""Two transactions that are truly under way at once: the first stops in the middle, the second runs into its locks.

Whatever they do to each other, it is as if one had come after the other: nothing deadlocks, nothing is half done, and
no update is lost.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import await_only

from orchestrator import closing, housekeeping, lifecycle
from orchestrator.db import Database, Session
from orchestrator.errors import ClientError, RunStopped
from orchestrator.execution import scribe
from orchestrator.tables import Run
from tests.life.stage import DEADLINE, Open
from tests.life.world import Cast, Ground, World

BLOCKED = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

KNOWN = ("id", "thread_id", "assistant_id", "project_id", "status", "attempt", "waiting", "placed", "expires_at")
"""Columns that a worker looks at when it writes a line."""

Verb = Callable[[World, Database], Awaitable[object]]


class Brake:
    """Stops whoever uses the engine after a statement of a given number."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._after = self._seen = 0
        self._stopped, self._go_on = asyncio.Event(), asyncio.Event()
        sa.event.listen(engine.sync_engine, "after_cursor_execute", self._count)

    def set(self, after: int) -> None:
        """Stop after so many statements from now."""
        self._after, self._seen = after, 0
        self._stopped.clear()
        self._go_on.clear()

    async def stopped(self, task: "asyncio.Task[object]") -> bool:
        """Wait until the task is stopped, or has ended; tell whether it is stopped."""
        stop = asyncio.create_task(self._stopped.wait())
        await asyncio.wait({stop, task}, return_when=asyncio.FIRST_COMPLETED, timeout=DEADLINE)
        stop.cancel()
        return self._stopped.is_set()

    def release(self) -> None:
        """Let it go on."""
        self._go_on.set()

    def _count(self, *_: object) -> None:
        self._seen += 1
        if self._seen == self._after:
            self._stopped.set()
            await_only(self._go_on.wait())


def by_client(verb: str) -> Verb:
    """What a client asks for."""

    async def ask(world: World, database: Database) -> None:
        async with database.transaction() as session:
            await world.verbs()[verb](session)

    return ask


async def claim(world: World, database: Database) -> None:
    """Another worker takes the run, if it may."""
    async with database.transaction() as session:
        await lifecycle.claim(session, world.rows.runs[0]["id"], "2", 60)


def line(write: Callable[[Session, Run], Awaitable[object]], *, ending: bool = False) -> Verb:
    """The worker that has the run writes a line."""

    async def put(world: World, database: Database) -> None:
        run = first_run(world)
        async with database.transaction() as session:
            await lifecycle.hold(session, run, ending=ending)
            await write(session, run)

    return put


async def release(world: World, database: Database) -> None:
    """The worker that has the run gives it back."""
    run = first_run(world)
    async with database.transaction() as session:
        await lifecycle.release(session, run)


async def sweep(_: World, database: Database) -> None:
    """Housekeeping."""
    await housekeeping.sweep(database)


def first_run(world: World) -> Run:
    """The run as its worker knows it: as it was when the two began."""
    row = world.rows.runs[0]
    return Run(**{name: row[name] for name in KNOWN})


VERBS: dict[str, Verb] = {
    **{name: by_client(name) for name in ("enqueue", "interrupt", "cancel", "submit", "message", "delete")},
    "claim": claim,
    "line": line(scribe.open_message),
    "finish": line(lambda session, run: closing.end(session, run, "completed", attempt="same"), ending=True),
    "fail": line(
        lambda session, run: closing.end(
            session, run, "failed", attempt="same", last_error={"code": "server_error", "message": "x"}
        ),
        ending=True,
    ),
    "release": release,
    "sweep": sweep,
}


@dataclass(frozen=True)
class State:
    """Where a pair begins: a cast, and the steps until there; a step that ends in `…` is made as often as it can be."""

    cast: Cast
    steps: tuple[str, ...] = ()

    async def reach(self, ground: Ground) -> World:
        """A world in this state."""
        world = World(ground, self.cast)
        await world.begin()
        for what in self.steps:
            await world.step(what.removesuffix("…"))
            while what.endswith("…") and what.removesuffix("…") in world.possible():
                await world.step(what.removesuffix("…"))
        return world


TALKING = ("W1 takes 0", "W1 goes on", "W1 goes on")
STATES = {
    "queued": State(Cast()),
    "claimed": State(Cast(), TALKING[:2]),
    "talking": State(Cast(), TALKING),
    "overdue": State(Cast(faults=("expiry",)), (*TALKING, "expiry")),
    "left": State(Cast(faults=("lost",), sweeps=1), (*TALKING, "lost", "sweep", "sweep goes on…")),
    "waited for": State(Cast(client=("enqueue",)), (*TALKING, "client: enqueue")),
    "requires_action": State(Cast(turns=("call",)), ("W1 takes 0", "W1 goes on…")),
    "cancelling": State(Cast(client=("cancel",)), (*TALKING, "client: cancel")),
    "left cancelling": State(Cast(client=("cancel",), faults=("lost",)), (*TALKING, "client: cancel", "lost")),
    "over": State(Cast(), ("W1 takes 0", "W1 goes on…")),
}


class Pairs:
    """Plays pairs of verbs, and compares what they lead to with what they lead to one after the other."""

    def __init__(self, ground: Ground, brake: Brake) -> None:
        self._ground = ground
        self._brake = brake
        self._known: dict[tuple[str, ...], str] = {}

    async def play(self, state: str, first: str, second: str, after: int) -> bool:
        """Stop the first after so many statements and begin the second; False if the first has not so many."""
        world = await STATES[state].reach(self._ground)
        try:
            self._brake.set(after)
            one = asyncio.create_task(carried(VERBS[first](world, Open(self._brake.engine, world.post))))
            if not await self._brake.stopped(one):
                await one
                return False
            other = asyncio.create_task(carried(VERBS[second](world, world.open)))
            await self._until_blocked(other)
            self._brake.release()
            async with asyncio.timeout(DEADLINE):
                await asyncio.gather(one, other)
            found = await self._outcome(world, first, second)
        finally:
            self._brake.release()
            await world.end()
        for order in ((first, second), (second, first)):
            if await self._one_by_one(state, order) == found:
                return True
        raise AssertionError(f"{state}: {second} within {first}, after statement {after}: {found}")

    async def _outcome(self, world: World, *verbs: str) -> str:
        """What it has come to. Housekeeping leaves alone what somebody else is at, and comes again."""
        if "sweep" in verbs:
            await sweep(world, world.open)
        await world.look()
        return world.facts()

    async def _until_blocked(self, task: "asyncio.Task[None]") -> None:
        while not task.done() and not await self._ground.reader.fetchval(BLOCKED):  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.002)

    async def _one_by_one(self, state: str, order: tuple[str, ...]) -> str:
        if (known := self._known.get((state, *order))) is not None:
            return known
        world = await STATES[state].reach(self._ground)
        try:
            for verb in order:
                await carried(VERBS[verb](world, world.open))
            found = self._known[(state, *order)] = await self._outcome(world, *order)
        finally:
            await world.end()
        return found


async def carried(what: Awaitable[Any]) -> None:
    """A refusal is an answer."""
    try:
        await what
    except (ClientError, RunStopped):
        return
