"""The way to Postgres: one engine per process, one transaction per request or journal line.

What must follow a commit (events, wake-ups, signals) is collected on the session by the verbs and sent once the commit
is through, never before: `session.publish`, `session.enqueue`, `session.signal`. A router cannot forget it, and nobody
hears of what did not happen. No transaction may be open while a model, a tool or a client is waited for.
"""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import orjson
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from orchestrator import queue
from orchestrator.bounds import Bounds
from orchestrator.events.frames import Frame, Track
from orchestrator.events.publisher import CANCELS, Publisher
from orchestrator.settings import Settings

PASSING_SQL_STATES = ("08", "40", "53", "57")
"""Classes of Postgres' error codes that pass: connection, rollback, out of resources, operator intervention."""


def engine(settings: Settings, *, patient: bool = False) -> AsyncEngine:
    """An engine with a bounded pool; connections and statements are waited for at most `settings.database_timeout`
    seconds.

    A `patient` one lets statements take as long as they need (an hour): migrations of large tables do.
    """
    return create_async_engine(
        driver_url(settings.database_url.get_secret_value()),
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_timeout=settings.database_queue,
        hide_parameters=True,  # errors would quote messages
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        connect_args={
            "timeout": settings.database_timeout,
            "command_timeout": 3600 if patient else settings.database_timeout,
        },
    )


def driver_url(url: str) -> str:
    """`url` as SQLAlchemy's asyncpg driver reads it; libpq's `sslmode` gets asyncpg's name."""
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", "postgres"):
        raise ValueError("DATABASE_URL must start with postgresql://")
    query = [("ssl" if key == "sslmode" else key, value) for key, value in parse_qsl(parts.query)]
    return urlunsplit(parts._replace(scheme="postgresql+asyncpg", query=urlencode(query)))


def passes(error: BaseException) -> bool:
    """Whether the database was away or too busy, if it was the database that raised this: what failed may succeed a
    little later.

    Drivers let errors of the connection, and a statement that takes too long, through as Python's own.
    """
    if not isinstance(error, exc.DBAPIError):
        return isinstance(error, ConnectionError | TimeoutError | socket.gaierror | exc.TimeoutError)
    state = getattr(error.orig, "sqlstate", None) or ""
    lost = error.connection_invalidated or isinstance(error, exc.InterfaceError | exc.OperationalError)
    return lost or state.startswith(PASSING_SQL_STATES)


class Session(AsyncSession):
    """A transaction with what has to be told once it is committed."""

    def __init__(self, engine: AsyncEngine, track: Track | None = None) -> None:
        super().__init__(engine, expire_on_commit=False)
        self._tracks = {} if track is None else {(track.run_id, track.attempt): track}
        self.frames: list[Frame] = []
        self.wakeups: list[tuple[str, tuple[str | int, ...]]] = []
        self.cancelled: list[str] = []
        self.webhooks = False
        self.bounds = Bounds()

    def publish(self, run_id: str, attempt: int, event: str, data: bytes) -> None:
        """After commit: the next event of this attempt of a run."""
        self.frames.append(self.track(run_id, attempt).frame(event, data))

    def track(self, run_id: str, attempt: int) -> Track:
        """The numbering of this attempt's events: whoever goes on with the attempt goes on with its track."""
        return self._tracks.setdefault((run_id, attempt), Track(run_id, attempt))

    def enqueue(self, task: str, *arguments: str | int) -> None:
        """After commit: wake a worker."""
        self.wakeups.append((task, arguments))

    def signal_cancel(self, run_id: str) -> None:
        """After commit: tell the worker that is at this run."""
        self.cancelled.append(run_id)


class Database:
    """Transactions of this process, and the sending of what follows from them. `webhooks`: runs' events are posted;
    `bounds`: how many runs may be at work at once.
    """

    def __init__(
        self, engine: AsyncEngine, publisher: Publisher, *, webhooks: bool = False, bounds: Bounds | None = None
    ) -> None:
        self.engine = engine
        self.publisher = publisher
        self.webhooks = webhooks
        self.bounds = bounds or Bounds()

    @asynccontextmanager
    async def transaction(self, track: Track | None = None) -> AsyncIterator[Session]:
        """A session that commits at the end of the block, then sends what was collected; an error rolls all of it back.

        Pass the `track` of the attempt that writes, so that its events go on where they were.
        """
        async with Session(self.engine, track) as session:
            session.webhooks, session.bounds = self.webhooks, self.bounds
            async with session.begin():
                yield session
            await self._tell(session)

    async def _tell(self, session: Session) -> None:
        for frame in session.frames:
            self.publisher.frame(frame)
        for run_id in session.cancelled:
            self.publisher.signal(CANCELS, run_id)
        for task, arguments in session.wakeups:
            self.publisher.push(*queue.message(task, *arguments))
        if session.wakeups or session.cancelled:
            await self.publisher.flush()
