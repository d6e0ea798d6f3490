"""One thread, its runs, and everybody who may touch them: which steps are possible now, and what each of them does."""

import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import col

from orchestrator import assistants, housekeeping, messages, projects, runs, threads
from orchestrator.db import Session
from orchestrator.direct import Direct
from orchestrator.errors import ClientError, RunCancelled, RunExpired
from orchestrator.execution.runner import Runner
from orchestrator.plain.verbs import Plain
from orchestrator.presence import LOCK_CLASS
from orchestrator.settings import Settings
from orchestrator.tables import Project
from orchestrator.wire.requests import CreateAssistant, CreateMessage, CreateRun, SubmitToolOutputs
from tests.life import laws
from tests.life.laws import Rows
from tests.life.stage import Actor, Asked, Open, Post, Puppet

ROUNDS = 60
"""Rounds in which a world comes to rest, or never will."""
HEALER = "healer"
"""The worker that comes when all else is over."""
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
READ = """SELECT jsonb_build_object(
  'runs', (SELECT coalesce(jsonb_agg(r ORDER BY position), '[]') FROM runs r WHERE thread_id = $1),
  'steps', (SELECT coalesce(jsonb_agg(s ORDER BY position), '[]') FROM run_steps s WHERE thread_id = $1),
  'messages', (SELECT coalesce(jsonb_agg(m ORDER BY position), '[]') FROM messages m WHERE thread_id = $1),
  'attempts', (SELECT coalesce(jsonb_agg(a), '[]') FROM run_attempts a JOIN runs r ON r.id = a.run_id
               WHERE r.thread_id = $1))"""
MOVING = "thread_id = $1 AND status IN ('queued', 'in_progress', 'requires_action', 'cancelling')"
FAULTS = {
    "expiry": "expires_at = extract(epoch FROM now())::int - 60",
    "lease": "lease_until = CASE WHEN owner IS NOT NULL THEN now() - interval '1 s' END",
    "due": "wake_at = now() - interval '1 s'",
}
"""What time does."""
IDS = re.compile(r"(?:run|step|msg|thread|wke|evt)_[A-Za-z0-9]{10,}")
TIMES = re.compile(r"(?<![\w.])1[0-9]{9}(?![\w.])|\d{4}-\d\d-\d\dT[\d:.+]+")


@dataclass(frozen=True)
class Cast:
    """Who plays: what the model says in each turn, what the client does in this order, what goes wrong in any order.

    `lost`: the first worker's lock is gone, and it does not know. `killed`: it is gone itself. `expiry`: the time of
    all runs is over; `timer`: their workers notice. `lease`, `due`: leases, and waits for a wake-up, are over. `again`:
    all wake-ups come once more. `shutdown`: the first worker is asked to stop, now. `direct`: the workers have the
    short way, too, and so have outputs.
    """

    turns: tuple[str, ...] = ("say",)
    client: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    workers: int = 1
    sweeps: int = 0
    direct: bool = False

    def __str__(self) -> str:
        parts = [*self.turns, *self.client, *self.faults, f"workers={self.workers}", f"sweeps={self.sweeps}"]
        return " ".join([*parts, *["direct"] * self.direct])


@dataclass
class Ground:
    """What all worlds stand on: a database of their own, and locks that are held under workers' names."""

    engine: AsyncEngine
    reader: asyncpg.Connection
    locks: dict[str, asyncpg.Connection]
    settings: Settings
    project_id: str
    assistant_id: str
    direct: Direct

    @classmethod
    async def made(cls, engine: AsyncEngine, settings: Settings, direct: Direct) -> "Ground":
        """A project and an assistant in an empty database."""
        url = settings.database_url.get_secret_value()
        database = Open(engine, Post())
        async with database.transaction() as session:
            await projects.register(session, "sk-asst-life-0123456789")
            project_id = (await session.execute(sa.select(col(Project.id)))).scalar_one()
            assistant = await assistants.create(
                session, project_id, CreateAssistant.model_validate({"model": "gpt-4o", "tools": [TOOL]})
            )
        locks = {owner: await asyncpg.connect(url) for owner in ("1", "2")}
        for owner, lock in locks.items():
            await lock.execute("SELECT pg_advisory_lock($1, $2)", LOCK_CLASS, int(owner))
        return cls(engine, await asyncpg.connect(url), locks, settings, project_id, assistant.id, direct)

    async def lock(self, owner: str, *, hold: bool) -> None:
        """Hold a worker's lock, or let go of it."""
        verb = "lock" if hold else "unlock"
        await self.locks[owner].execute(f"SELECT pg_advisory_{verb}($1, $2)", LOCK_CLASS, int(owner))

    async def close(self) -> None:
        """Give all connections back."""
        for connection in (self.reader, *self.locks.values()):
            await connection.close()


@dataclass
class World:
    """A scenario under way."""

    ground: Ground
    cast: Cast
    post: Post = field(default_factory=Post)
    asked: list[Asked] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    thread_id: str = ""
    rows: Rows = field(default_factory=lambda: Rows([], [], [], []))

    async def begin(self) -> None:
        """A thread with a run that is queued."""
        self.open = Open(self.ground.engine, self.post)
        self.workers = {str(number): self._actor(f"W{number}") for number in range(1, self.cast.workers + 1)}
        self.runners = {owner: self._runner(owner, actor) for owner, actor in self.workers.items()}
        self.carrying: dict[str, tuple[str, int]] = {}
        self.sweeper = self._actor("sweep")
        self.sweeps, self.client, self.faults = self.cast.sweeps, list(self.cast.client), list(self.cast.faults)
        self.lost: set[str] = set()
        self.consumed: list[tuple[str, int]] = []
        async with self.open.transaction() as session:
            thread = await threads.create(session, self.ground.project_id, None)
        self.thread_id = thread.id
        await self.client_does("reject")
        await self.look()

    # -- steps --

    def possible(self) -> list[str]:
        """The steps that are possible now."""
        found = [f"{actor.name} goes on" for actor in self._actors() if actor.waits and not actor.killed]
        for owner, actor in self.workers.items():
            if not actor.busy and not actor.killed and owner not in self.lost:
                found += [f"W{owner} takes {place}" for place in self._distinct_wakeups()]
        if self.client:
            found.append(f"client: {self.client[0]}")
        if self.sweeps and not self.sweeper.busy:
            found.append("sweep")
        if self.post.signals:
            found.append("signal")
        return found + [fault for fault in dict.fromkeys(self.faults) if self._may_go_wrong(fault)]

    async def step(self, what: str) -> None:
        """Do it, and see that everything is still lawful."""
        self.trace.append(what)
        before, stale, asked = self.rows, self._stale(what), len(self.asked)
        heard = {} if stale is None else {stale: len(laws.heard(self.post.told, stale))}
        if what.endswith(" goes on"):
            actor = next(actor for actor in self._actors() if actor.name == what.removesuffix(" goes on"))
            await actor.go_on()
        elif " takes " in what:
            worker, _, place = what.partition(" takes ")
            await self._take(worker.removeprefix("W"), int(place))
        elif what.startswith("client: "):
            await self.client_does(self.client.pop(0))
        elif what == "sweep":
            self.sweeps -= 1
            await self.sweeper.begin(housekeeping.sweep(self.sweeper.database))
        elif what == "signal":
            await self._signal()
        else:
            self.faults.remove(what)
            await self._go_wrong(what)
        await self.look()
        self._check(before)
        if stale is not None:
            assert self.rows == before, "an attempt that was over has written"
            late = laws.heard(self.post.told, stale)[heard[stale] :]
            assert all(event.endswith(".delta") for _, event, _ in late), f"an attempt that was over was heard: {late}"
        for one in self.asked[asked:]:
            self._check_question(one)

    async def _take(self, owner: str, place: int) -> None:
        run_id, attempt = self.post.wakeups.pop(place)
        self.consumed.append((run_id, attempt))
        self.carrying[owner] = (run_id, attempt)
        await self.workers[owner].begin(self.runners[owner].run(run_id, attempt))

    async def client_does(self, verb: str) -> None:
        """What a client may ask for. A refusal is an answer too."""
        if verb == "submit" and self.cast.direct and await self._submitted():
            return
        try:
            async with self.open.transaction() as session:
                await self.verbs()[verb](session)
        except ClientError:
            self.trace.append("  (refused)")

    def verbs(self) -> dict[str, Callable[[Session], Awaitable[object]]]:
        """What a client may ask for, by name."""
        project, thread = self.ground.project_id, self.thread_id
        latest = self.rows.runs[-1]["id"] if self.rows.runs else ""
        active = self._active()
        run_id = active["id"] if active else latest

        def create(policy: str) -> Callable[[Session], Awaitable[object]]:
            said = [CreateMessage(role="user", content=f"message {len(self.rows.runs)}")]
            body = CreateRun.model_validate({"assistant_id": self.ground.assistant_id, "on_active_run": policy})
            body.additional_messages = said
            return lambda session: runs.create(session, project, thread, body, lifetime=600)

        body = self._outputs(active)
        said = CreateMessage(role="user", content="another")
        return {
            **{policy: create(policy) for policy in ("reject", "enqueue", "interrupt")},
            "cancel": lambda session: runs.cancel(session, project, thread, run_id),
            "cancel latest": lambda session: runs.cancel(session, project, thread, latest),
            "submit": lambda session: runs.submit_tool_outputs(session, project, thread, run_id, body),
            "message": lambda session: messages.create(session, project, thread, said),
            "delete": lambda session: threads.delete(session, project, thread),
        }

    def _active(self) -> dict[str, Any] | None:
        """The run that owns the thread."""
        return next((run for run in self.rows.runs if run["status"] not in laws.OVER and not run["waiting"]), None)

    def _outputs(self, active: dict[str, Any] | None) -> SubmitToolOutputs:
        """Those that the run waits for, or of a call that there never was."""
        wanted = active and active["required_action"]
        calls = wanted["submit_tool_outputs"]["tool_calls"] if wanted else [{"id": "call_0"}]
        outputs = {"tool_outputs": [{"tool_call_id": call["id"], "output": "x"} for call in calls]}
        return SubmitToolOutputs.model_validate(outputs)

    async def _submitted(self) -> bool:
        """Whether the short way has taken the outputs."""
        active, plain = self._active(), Plain(self.open, self.ground.direct, 600)
        if active is None:
            return False
        asked = (self.ground.project_id, self.thread_id, active["id"], self._outputs(active))
        if (resumed := await plain.submit_tool_outputs(*asked)) is None:
            return False
        self.post.wakeups.append((resumed.run.id, resumed.run.attempt))
        return True

    async def _signal(self) -> None:
        for run_id in self.post.signals:
            for owner, runner in self.runners.items():
                if not self.workers[owner].killed:
                    runner.interrupt(run_id, RunCancelled())
        self.post.signals.clear()
        await self._settle()

    def _may_go_wrong(self, fault: str) -> bool:
        if fault in ("lost", "killed", "shutdown"):
            return self.workers["1"].busy and not self.workers["1"].killed
        if fault == "timer":
            return "expiry" not in self.faults and any(runner.carried() for runner in self.runners.values())
        return fault != "again" or bool(self.consumed)

    async def _go_wrong(self, fault: str) -> None:
        if fault in FAULTS:
            await self._pass(fault)
        elif fault == "again":
            self.post.wakeups += self.consumed
        elif fault == "timer":
            for runner in self.runners.values():
                for run_id in runner.carried():
                    runner.interrupt(run_id, RunExpired())
        elif fault == "shutdown":
            self.lost.add("1")  # it takes nothing more
            task = self.workers["1"].task
            assert task is not None
            task.cancel()
        else:
            await self._lose("1", killed=fault == "killed")
        await self._settle()

    async def _pass(self, fault: str) -> None:
        query = f"UPDATE runs SET {FAULTS[fault]} WHERE {MOVING}"  # noqa: S608  # our own words
        await self.ground.reader.execute(query, self.thread_id)

    async def _lose(self, owner: str, *, killed: bool) -> None:
        if owner not in self.lost:
            self.lost.add(owner)
            await self.ground.lock(owner, hold=False)
        if killed:
            await self.workers[owner].kill()

    # -- what is seen --

    async def look(self) -> None:
        """Read all rows anew."""
        found = orjson.loads(await self.ground.reader.fetchval(READ, self.thread_id))
        self.rows = Rows(found["runs"], found["steps"], found["messages"], found["attempts"])

    def _check(self, before: Rows) -> None:
        laws.check_step(before, self.rows)
        for run in self.rows.runs:
            laws.check_numbers(self.post.told, run["id"])
            laws.check_story(laws.heard(self.post.told, run["id"]))
        for actor in self._actors():
            assert actor.failed is None, f"{actor.name} failed: {actor.failed!r}"

    def _stale(self, what: str) -> str | None:
        """The run at which a worker is that makes this step, if another attempt owns it by now."""
        worker, _, how = what.partition(" ")
        owner = "2" if worker == HEALER else worker.removeprefix("W")
        carried = self.runners[owner].carried() if how == "goes on" and owner in self.runners else {}
        for run_id, attempt in carried.items():
            row = self.rows.run(run_id)
            if row is None or row["attempt"] != attempt:
                return run_id
        return None

    def _check_question(self, asked: Asked) -> None:
        """Whoever owns a run asks for its next turn: those that are finished are not paid for again."""
        owner = "2" if asked.worker == HEALER else asked.worker.removeprefix("W")
        for run_id, attempt in self.runners[owner].carried().items():
            row = self.rows.run(run_id)
            if row and row["attempt"] == attempt:
                finished = [step for step in self.rows.of(row) if step["step_details"].get("tool_calls")]
                assert asked.turn == len(finished), f"turn {asked.turn} was asked for, {len(finished)} are finished"

    def _facts(self) -> list[dict[str, Any]]:
        return [_plain(row) for part in (self.rows.runs, self.rows.steps, self.rows.messages) for row in part]

    def digest(self) -> str:
        """The state of everything, by which two ways to the same place are known as such."""
        text = json.dumps(
            {
                "rows": self._facts(),
                "told": [frame.data.decode() for frame in self.post.told],
                "post": [self.post.wakeups, sorted(self.post.signals), self.consumed],
                "left": [self.sweeps, self.client, sorted(self.faults), sorted(self.lost)],
                "actors": [
                    [actor.name, actor.busy, actor.waits, actor.killed, actor.steps, self.carrying.get(owner)]
                    for owner, actor in [*self.workers.items(), ("", self.sweeper)]
                ],
                "asked": [[one.worker, one.turn] for one in self.asked],
            },
            default=str,
        )
        return hashlib.sha256(_canonical(text).encode()).hexdigest()

    def facts(self) -> str:
        """What Postgres knows, without what differs from one world to the next."""
        return _canonical(json.dumps(self._facts()))

    # -- coming to rest --

    async def rest(self) -> None:
        """Let everybody finish; then housekeeping and a healthy worker do what is left. Checks the world at rest."""
        for _ in range(ROUNDS):
            before = self._facts()
            await self._finish_all()
            await self._heal()
            if self._facts() == before:
                break
        else:
            raise AssertionError("the world does not come to rest")
        laws.check_rest(self.rows, self.post.told)

    async def _finish_all(self) -> None:
        while actor := next((actor for actor in self._actors() if actor.waits and not actor.killed), None):
            await self.step(f"{actor.name} goes on")
        if self.post.signals:
            await self.step("signal")
            await self._finish_all()

    async def _heal(self) -> None:
        await self._pass("due")
        self.sweeps = 1
        await self.step("sweep")
        while self.sweeper.waits:
            await self.step("sweep goes on")
        for owner, runner in self.runners.items():  # a heartbeat finds what is cancelling
            for run_id, attempt in dict(runner.carried()).items():
                row = self.rows.run(run_id)
                if row and (row["status"], row["owner"], row["attempt"]) == ("cancelling", owner, attempt):
                    runner.interrupt(run_id, RunCancelled())
        await self._settle()
        await self._finish_all()
        if HEALER not in {actor.name for actor in self._actors()}:
            self.workers["2"] = self._actor(HEALER)
            self.runners["2"] = self._runner("2", self.workers["2"])
        while self.post.wakeups:
            await self._take("2", 0)
            await self.look()
            await self._finish_all()

    async def end(self) -> None:
        """Leave nothing behind."""
        for actor in self._actors():
            await actor.kill()
        for owner in {"1", "2"} & self.lost - {"shutdown"}:
            if not await self._held(owner):
                await self.ground.lock(owner, hold=True)
        await self.ground.reader.execute("DELETE FROM threads WHERE id = $1", self.thread_id)

    async def _held(self, owner: str) -> bool:
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = $1 AND pid = pg_backend_pid()"
        return bool(await self.ground.locks[owner].fetchval(query, int(owner)))

    # -- who there is --

    def _actors(self) -> list[Actor]:
        return [*self.workers.values(), self.sweeper]

    def _actor(self, name: str) -> Actor:
        return Actor(name, self.post, self.ground.engine, self.ground.direct if self.cast.direct else None)

    def _runner(self, owner: str, actor: Actor) -> Runner:
        return Runner(actor.database, Puppet(actor, self.cast.turns, self.asked), owner, self.ground.settings)

    async def _settle(self) -> None:
        for actor in self._actors():
            await actor.settle()

    def _distinct_wakeups(self) -> list[int]:
        return [place for place, one in enumerate(self.post.wakeups) if one not in self.post.wakeups[:place]]


def _canonical(text: str) -> str:
    """Without ids and times."""
    known: dict[str, str] = {}
    for id_ in IDS.findall(text):
        known.setdefault(id_, f"#{len(known)}")
    return TIMES.sub("T", IDS.sub(lambda found: known[found[0]], text))


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what differs from one world to the next."""
    kept = {key: value for key, value in row.items() if key not in ("position", "lease_until", "wake_at", "expires_at")}
    return {**kept, "leased": row.get("lease_until") is not None}
