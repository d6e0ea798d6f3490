"""Where real workers and housekeeping play step by step: each waits before every transaction until it is its turn.

A step is one transaction, or one statement of the short way, or a moment in which the model is silent. Nothing is
mocked but time, the broker and the model: what would travel through Redis is kept here, so that it can come late,
twice, or never.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.db import Database, Session
from orchestrator.direct import Direct
from orchestrator.events.frames import Frame, Track
from orchestrator.events.publisher import Publisher
from orchestrator.foreign import Json
from orchestrator.model import Delta, Finished, Prompt, TextDelta, ToolCallDelta, Usage

DEADLINE = 60.0
COST = Usage(prompt_tokens=10, completion_tokens=3)
"""What every turn of the model costs."""


class Killed(BaseException):
    """The process is gone: nothing that it would still do happens."""


class Post(Publisher):
    """What would go to Redis: frames as they were told, and wake-ups and signals that nobody has had yet."""

    def __init__(self) -> None:
        self.told: list[Frame] = []
        self.wakeups: list[tuple[str, int]] = []
        self.signals: set[str] = set()

    def frame(self, frame: Frame) -> None:
        self.told.append(frame)

    def frames(self, frames: list[Frame]) -> None:
        self.told += frames

    def events(self, frames: list[Frame]) -> None:
        self.told += frames

    def push(self, queue: str, message: bytes) -> None:
        """Taken from the session instead, where it is not encoded."""

    def signal(self, channel: str, message: str) -> None:
        """Taken from the session, too."""

    async def flush(self) -> None:
        """Nothing waits."""


@dataclass
class Actor:
    """Somebody whose transactions wait for their turn, and the statements of the short way, if it has one."""

    name: str
    post: Post
    engine: AsyncEngine
    direct: Direct | None = None
    task: "asyncio.Task[Any] | None" = None
    gates: "list[asyncio.Future[None]]" = field(default_factory=list)
    steps: int = 0
    killed: bool = False
    failed: BaseException | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def database(self) -> "Stage":
        """The database as this actor sees it."""
        return Stage(self)

    @property
    def busy(self) -> bool:
        """Whether it has something left to do."""
        return self.task is not None and not self.task.done()

    @property
    def waits(self) -> bool:
        """Whether it stands before a step."""
        return any(not gate.done() for gate in self.gates)

    async def begin(self, what: Coroutine[Any, Any, object]) -> None:
        """Start something; it comes as far as its first step."""
        self.task = asyncio.create_task(self._carry(what))
        self.task.add_done_callback(lambda _: self._changed.set())
        await self.settle()

    async def go_on(self) -> None:
        """Make one step."""
        gate = next(gate for gate in self.gates if not gate.done())
        self.gates.remove(gate)
        self.steps += 1
        gate.set_result(None)
        await self.settle()

    async def turn(self) -> None:
        """Wait for one's turn."""
        if self.killed:
            raise Killed
        gate = asyncio.get_running_loop().create_future()
        self.gates.append(gate)
        self._changed.set()
        try:
            await gate
        finally:
            if gate in self.gates:
                self.gates.remove(gate)

    async def settle(self) -> None:
        """Return when it stands before its next step, or has ended."""
        async with asyncio.timeout(DEADLINE):
            for _ in range(4):  # interruptions arrive, children hear of them
                await asyncio.sleep(0)
            while self.busy and not self.waits:
                self._changed.clear()
                await self._changed.wait()

    async def kill(self) -> None:
        """It is gone, in the middle of whatever it did."""
        self.killed = True
        for gate in self.gates:
            if not gate.done():
                gate.set_exception(Killed())
        if self.task is not None and not self.task.done():
            self.task.cancel()
            async with asyncio.timeout(DEADLINE):
                await asyncio.wait([self.task])

    async def _carry(self, what: Coroutine[Any, Any, object]) -> None:
        with suppress(Killed, asyncio.CancelledError):
            try:
                await what
            except Exception as error:
                self.failed = error
                raise


class Stage(Database):
    """The real database, in which an actor's transactions wait for their turn; what follows from them is kept."""

    def __init__(self, actor: Actor) -> None:
        super().__init__(actor.engine, actor.post, None if actor.direct is None else Paced(actor, actor.direct))
        self._actor = actor

    @asynccontextmanager
    async def transaction(self, track: Track | None = None) -> AsyncIterator[Session]:
        await self._actor.turn()
        async with super().transaction(track) as session:
            yield session
        keep(self._actor.post, session)


class Paced(Direct):
    """The real short way, on which an actor's statements wait for their turn."""

    def __init__(self, actor: Actor, direct: Direct) -> None:
        self._actor = actor
        self._way = direct

    async def fetch(self, statement: str, *arguments: Json) -> list[Json]:
        await self._actor.turn()
        return await self._way.fetch(statement, *arguments)


class Open(Database):
    """The real database, whose transactions happen at once; what follows from them is kept."""

    def __init__(self, engine: AsyncEngine, post: Post) -> None:
        super().__init__(engine, post)
        self._post = post

    @asynccontextmanager
    async def transaction(self, track: Track | None = None) -> AsyncIterator[Session]:
        async with super().transaction(track) as session:
            yield session
        keep(self._post, session)


def keep(post: Post, session: Session) -> None:
    """Keep the wake-ups and signals that follow from a transaction."""
    for _, (run_id, *attempt) in session.wakeups:
        post.wakeups.append((str(run_id), int(attempt[0])))
    post.signals |= set(session.cancelled)


@dataclass
class Asked:
    """A question to the model: which turn of which worker's run, in the knowledge of so many finished turns."""

    worker: str
    turn: int


class Puppet:
    """A model that says, turn by turn, what the scenario wants, and is silent once in each."""

    def __init__(self, actor: Actor, turns: tuple[str, ...], asked: list[Asked]) -> None:
        self._actor = actor
        self._turns = turns
        self._asked = asked

    async def stream(self, prompt: Prompt) -> AsyncGenerator[list[Delta], None]:
        """`say`: a text. `call`: a function of the client. `both`: a text and then a call. `fly`: an unknown tool."""
        roles = [message["role"] for message in prompt.messages]
        own = prompt.messages[len(roles) - roles[::-1].index("user") :]  # each run brings a message along
        done = sum(bool(message.get("tool_calls")) for message in own)
        self._asked.append(Asked(self._actor.name, done))
        kind = self._turns[done] if done < len(self._turns) else "say"
        if kind in ("say", "both"):
            yield [TextDelta("one ")]
            await self._actor.turn()
            yield [TextDelta("two")]
        if kind != "say":
            name = "fly" if kind == "fly" else "look"
            yield [ToolCallDelta(0, f"call_{done}", name, "")]
            if kind != "both":
                await self._actor.turn()
            yield [ToolCallDelta(0, None, None, "{}")]
        yield [Finished("stop" if kind == "say" else "tool_calls", COST, None)]

    async def models(self) -> list[Json]:
        """Nobody asks."""
        return []

    async def retrieve(self, model_id: str) -> Json | None:
        """Nobody asks."""
        return None
