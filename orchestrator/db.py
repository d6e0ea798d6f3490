"""The way to Postgres: one engine per process, one transaction per request or journal line.

What must follow a commit (events, wake-ups, signals) is collected on the session by the verbs and sent once the commit
is through, never before: `session.publish`, `session.enqueue`, `session.signal`. A router cannot forget it, and nobody
hears of what did not happen. No transaction may be open while a model, a tool or a client is waited for.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg
import orjson
import structlog
from sqlalchemy import ExceptionContext, event, exc, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from orchestrator import queue
from orchestrator.bounds import Bounds
from orchestrator.direct import CONNECTIONS, Direct, connect
from orchestrator.events.frames import Frame, Track
from orchestrator.events.publisher import CANCELS, Publisher
from orchestrator.foreign import Json
from orchestrator.settings import Settings

log = structlog.get_logger(__name__)

PASSING_SQL_STATES = ("08", "40", "53", "57", "25P03", "25P04", "25006", "58030")
"""Postgres' error codes, or classes of them, that pass: connection, rollback, out of resources, operator intervention;
a transaction that was silent for too long; a server that is read-only, after a failover; trouble with its files."""
PASSING = (
    ConnectionError,
    TimeoutError,
    socket.gaierror,
    exc.TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""What else is raised when the database is away, by the drivers and by the pools."""
NOTICED = {"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3"}
"""So that Postgres notices within some eleven seconds that the machine at the other end is gone."""
UNSENT = 12_000
"""The same in milliseconds, where it has something to send."""
BUSY = 5.0
"""Seconds for which a process of ours may be too busy to go on with a transaction."""
MARGIN = 2.0
"""Seconds that Postgres gives a statement beyond what we wait for it: ours is the better error."""
_SILENT = (
    "FROM pg_stat_activity WHERE usename = current_user"
    " AND datname = current_database() AND state = 'active' AND wait_event = 'ClientRead' AND query NOT ILIKE 'copy %'"
    " AND state_change < clock_timestamp() - make_interval(secs => :seconds)"
)
SILENT = text(f"SELECT pg_terminate_backend(pid) {_SILENT}")
ANY_SILENT = text(f"EXISTS (SELECT {_SILENT})")
ASKING = (0.1, 0.5)
"""Seconds between questions whether the database is back: the first, and the longest."""


def engine(settings: Settings, *, patient: bool = False, connections: int | None = None) -> AsyncEngine:
    """An engine with a bounded pool, of `settings.database_pool_size` unless told otherwise; connections and statements
    are waited for at most `settings.database_timeout` seconds.

    A `patient` one lets statements take as long as they need (an hour): migrations of large tables do.
    """
    timeout = 3600 if patient else settings.database_timeout
    made = create_async_engine(
        driver_url(settings.database_url.get_secret_value()),
        pool_size=connections or settings.database_pool_size,
        max_overflow=0,
        pool_timeout=settings.database_queue,
        hide_parameters=True,  # errors would quote messages
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        connect_args={
            "async_creator_fn": connect,
            "timeout": settings.database_timeout,
            "command_timeout": timeout,
            "server_settings": session_settings(settings, timeout),
        },
    )
    event.listen(made.sync_engine, "checkout", _see_that_it_lives)
    event.listen(made.sync_engine, "handle_error", _see_that_it_is_lost)
    return made


def direct(settings: Settings, connections: int = CONNECTIONS) -> Direct:
    """The short way to the same database, under the same limits."""
    return Direct(
        settings.database_url.get_secret_value(),
        session_settings(settings, settings.database_timeout),
        timeout=settings.database_timeout,
        queue=settings.database_queue,
        connections=connections,
    )


def session_settings(settings: Settings, timeout: float) -> dict[str, str]:
    """What each session asks of Postgres, so that a process of ours that hangs or is cut off holds up nobody for long:
    neither with a statement, nor with locks in the middle of a transaction, nor as a connection without another end.
    """
    silence = longest_silence(settings.database_timeout, settings.run_lease)
    return {
        **NOTICED,
        "tcp_user_timeout": str(UNSENT),
        "statement_timeout": str(int((timeout + MARGIN) * 1000)),
        "idle_in_transaction_session_timeout": str(int(silence * 1000)),
    }


def longest_silence(timeout: float, lease: float) -> float:
    """Seconds for which a process of ours may say nothing in the middle of a transaction."""
    return min(timeout, max(lease, BUSY))


async def end_silent(session: "Session", seconds: float) -> int:
    """End sessions of ours whose process has said nothing for so long in the middle of a statement: between its parts,
    as drivers send them, none of Postgres' own limits holds. Returns how many.
    """
    ended = (await session.execute(SILENT, {"seconds": seconds})).all()
    if ended:
        log.warning("silent_sessions_ended", sessions=len(ended))
    return len(ended)


def _see_that_it_lives(connection: Json, _record: object, _proxy: object) -> None:
    """Have the pool drop its connections if it hands out one that has ended, as all do when Postgres restarts."""
    if connection.driver_connection.is_closed():
        raise exc.InvalidatePoolError


def _see_that_it_is_lost(context: ExceptionContext) -> None:
    """Have a connection dropped whose driver has lost its way (cut off in the middle of something): it never finds it
    again, and whoever got the connection next would fail, too.
    """
    error = context.original_exception
    if isinstance(error, asyncpg.InternalClientError) or isinstance(error.__cause__, asyncpg.InternalClientError):
        context.is_disconnect, context.invalidate_pool_on_disconnect = True, False


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
    if isinstance(error, exc.DBAPIError):
        lost = error.connection_invalidated or isinstance(error, exc.InterfaceError | exc.OperationalError)
        return lost or _state(error).startswith(PASSING_SQL_STATES)
    if isinstance(error, asyncpg.PostgresError):
        return _state(error).startswith(PASSING_SQL_STATES)
    return isinstance(error, PASSING)


def describe(error: BaseException) -> str:
    """What may be logged of the database's errors: never a statement, or a row."""
    return f"{type(error).__name__} {_state(error)}".rstrip()


def _state(error: BaseException) -> str:
    raised = error.orig if isinstance(error, exc.DBAPIError) else error
    return getattr(raised, "sqlstate", None) or ""


class Session(AsyncSession):
    """A transaction with what has to be told once it is committed.

    `xid` is what Postgres calls it, if a verb has asked: with it, one whose commit was not answered can be looked up.
    """

    def __init__(self, engine: AsyncEngine, track: Track | None = None) -> None:
        super().__init__(engine, expire_on_commit=False)
        self._given = track
        self._tracks = {} if track is None else {(track.run_id, track.attempt): track.fork()}
        self.xid: str | None = None
        self.committed = False
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

    def told(self) -> None:
        """The frames are on their way: the track that was given goes on behind them."""
        if self._given is not None:
            self._given.join(self.track(self._given.run_id, self._given.attempt))

    def enqueue(self, task: str, *arguments: str | int) -> None:
        """After commit: wake a worker."""
        self.wakeups.append((task, arguments))

    def signal_cancel(self, run_id: str) -> None:
        """After commit: tell the worker that is at this run."""
        self.cancelled.append(run_id)


class Database:
    """Transactions of this process, and the sending of what follows from them. `webhooks`: runs' events are posted;
    `bounds`: how many runs may be at work at once. `direct`: the short way for what is done for every run; without it
    all goes the long way.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        publisher: Publisher,
        direct: Direct | None = None,
        *,
        webhooks: bool = False,
        bounds: Bounds | None = None,
    ) -> None:
        self.engine = engine
        self.publisher = publisher
        self.direct = direct
        self.webhooks = webhooks
        self.bounds = bounds or Bounds()
        self._asking = asyncio.Lock()
        self._returns = 0

    @asynccontextmanager
    async def transaction(self, track: Track | None = None) -> AsyncIterator[Session]:
        """A session that commits at the end of the block, then sends what was collected; an error rolls all of it back.

        Pass the `track` of the attempt that writes, so that its events go on where they were. Whatever becomes of the
        transaction, what was read in it can be read on: SQLAlchemy would forget it at a rollback.
        """
        async with Session(self.engine, track) as session:
            session.webhooks, session.bounds = self.webhooks, self.bounds
            async with session.begin():
                try:
                    yield session
                    await session.flush()
                finally:
                    session.expunge_all()
            session.committed = True
            await self.tell(session)

    async def tell(self, session: Session) -> None:
        """Send what a transaction has collected that turned out to be committed."""
        session.told()
        for frame in session.frames:
            self.publisher.frame(frame)
        for run_id in session.cancelled:
            self.publisher.signal(CANCELS, run_id)
        for task, arguments in session.wakeups:
            self.publisher.push(*queue.message(task, *arguments))
        if session.wakeups or session.cancelled:
            await self.publisher.flush()

    async def back(self) -> bool:
        """Return once the database answers: whether it was away. However many wait for that, one asks."""
        returns = self._returns
        async with self._asking:
            if self._returns > returns:
                return True
            pause, away = ASKING[0], False
            while (trouble := await self._trouble()) is not None:
                if not away:
                    log.warning("database_away", error=describe(trouble))
                away = True
                await asyncio.sleep(pause)
                pause = min(2 * pause, ASKING[1])
            if away:
                log.info("database_back")
                self._returns += 1
            return away

    async def _trouble(self) -> Exception | None:
        try:
            async with self.engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
        except Exception as error:  # a wrong password, too, may be put right
            return error
        return None
