"""The thread before a run: read from its newest message backwards, and no further than the model can be told of it.

    oldest few · … never read … · page · page · newest page (read when the run is claimed)

A thread of 100,000 messages costs what fits into the prompt, not what it holds: pages are index scans from one end.
Nor may heavy messages (images come as data within them) fill a worker's memory: what is read is weighed by Postgres.
Further pages are read only when the first ones leave room, each by itself; nothing is held between them.
What a run has said and done itself is not the past: it is told in any case (`own`).
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from itertools import takewhile
from typing import Literal, NamedTuple, TypeAlias

import structlog
from sqlalchemy import BigInteger, Integer, Select, bindparam, case, func, or_, select, text
from sqlmodel import col

from orchestrator import tokens, written
from orchestrator.db import Database, Session
from orchestrator.execution import truncation
from orchestrator.execution.conversation import TORN, Called, Said, Unit, units
from orchestrator.foreign import Json
from orchestrator.tables import Message, Run, RunStep

log = structlog.get_logger(__name__)

Query: TypeAlias = Select[*tuple[Json, ...]]
SMALLEST_PAGE, FIRST_PAGE, LARGEST_PAGE = 20, 100, 1000
MOST = 10_000
"""Messages that are told at most, however short they are."""
HEAVIEST = 64 * 1024 * 1024
"""Bytes, as they are stored, after which no more is read: a prompt of that size is more than model servers take."""
END = 2**62
"""Behind every position."""
FROM_THE_END = text("SET LOCAL enable_bitmapscan = off")
"""Postgres thinks that a thread has as many messages as the average one. It would rather collect all 100,000 of this
one and sort them than walk its index from the end; without bitmaps, the walk is always the cheaper one."""
IS_CALLS = text("type = 'tool_calls'")
"""In literals: a planner cannot match parameters to the condition of a partial index."""


async def own(session: Session, run: Run) -> list[Message | RunStep]:
    """What earlier attempts at the run have said and called, oldest first. The first attempt need not ask."""
    if run.attempt <= 1:
        return []
    said = await session.execute(_said(), {"of": run.id})
    done = await session.execute(_called(), {"of": run.id})
    return sorted([*said.scalars(), *done.scalars()], key=lambda item: item.position)


class Page(NamedTuple):
    """The newest messages and calls of a thread, oldest first; the position to which they reach; what they weigh."""

    items: list[Said | Called]
    covered: int
    weight: int


def ordered(said: list[Said], called: list[Called], reach: int, *, newest: bool = True) -> list[Said | Called]:
    """What is not beyond the end of the page, oldest first."""
    items: list[Said | Called] = [*said, *called]
    items = [item for item in items if (item.position >= reach if newest else item.position <= reach)]
    return sorted(items, key=lambda item: item.position)


class Past:
    """What has been read so far of the thread of `run`. `window` only says how large the first page should be."""

    def __init__(self, database: Database, run: Run, window: int) -> None:
        self._database = database
        self._run = run
        self._most: int | None = run.truncation_strategy.get("last_messages")
        self._first = self._most or max(SMALLEST_PAGE, min(FIRST_PAGE, window // 256))
        self._tail: list[Unit] = []
        self._head: list[Unit] | None = None
        self._from = END  # all positions from here on have been read
        self._whole = False
        self._weight = 0
        self._full = False  # something was too heavy to be read

    async def begin(self, session: Session) -> None:
        """Read the newest page, within the transaction that claims the run."""
        await self._read_older(session, min(self._first, LARGEST_PAGE))

    def begun(self, page: Page) -> None:
        """Begin with the newest page, which was read by the statement that claimed the run."""
        self._weight = page.weight
        self._take(page.items, page.covered)

    @property
    def bound(self) -> int | None:
        """At least the tokens of all that may be told; None if there is more than has been read."""
        return sum(unit.bound for unit in self._tail) if self._whole else None

    def all(self) -> list[Unit]:
        """What has been read, oldest first."""
        return self._tail

    async def within(self, room: int) -> list[Unit]:
        """What is told in `room` tokens, oldest first; at least the newest message, whether it fits or not."""
        while not self._whole and await self._has_place(room):
            async with self._reading() as session:
                await self._read_older(session, self._next_page(room))
        if not self._whole and self._most is None and self._head is None:
            async with self._reading() as session:
                self._head = await self._read_head(session)
        known = [*(self._head or ()), *self._tail]
        await _measure(self._run.model, known)
        kept = truncation.choose(known, room, head=truncation.HEAD if self._most is None else 0)
        if len(kept) < len(known) or not self._whole:
            log.info("messages_dropped", kept=len(kept), room=room)
        return kept

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Session | None]:
        """What a page is read in: the short way, if there is one, takes no transaction."""
        if self._database.direct is not None:
            yield None
        else:
            async with self._database.transaction() as session:
                yield session

    async def _has_place(self, room: int) -> bool:
        """Whether more should be read: the newest message in any case, however much has been called since."""
        if truncation.newest_message(self._tail) is None:
            return True
        return len(self._tail) < MOST and not self._full and await self._size() <= room

    async def _size(self) -> int:
        await _measure(self._run.model, self._tail)
        return sum(unit.size or 0 for unit in self._tail)

    def _next_page(self, room: int) -> int:
        """About as many messages as are missing, if they are as long as the others."""
        size = sum(unit.size or 0 for unit in self._tail)
        average = max(1, size // max(1, len(self._tail)))
        return min(LARGEST_PAGE, max(SMALLEST_PAGE, (room - size) // average + 1))

    async def _read_older(self, session: Session | None, limit: int) -> None:
        weight = self._weight
        try:
            items, covered = await self._read(session, "newest", limit)
        except Exception:  # the database may have gone away: what is read again must not count twice
            self._weight = weight
            raise
        self._take(items, covered)

    def _take(self, items: list[Said | Called], covered: int) -> None:
        self._tail[:0] = units(items)
        self._from, self._head = covered, None
        self._whole = covered == 0
        if self._most is not None:
            self._keep_last(self._most)

    async def _read_head(self, session: Session | None) -> list[Unit]:
        items, _ = await self._read(session, "oldest", truncation.HEAD)
        return units(items)

    def _keep_last(self, count: int) -> None:
        places = [place for place, unit in enumerate(self._tail) if unit.said]
        if len(places) >= count:
            del self._tail[: places[-count]]
            self._whole = True

    async def _read(
        self, session: Session | None, end: Literal["newest", "oldest"], limit: int
    ) -> tuple[list[Said | Called], int]:
        """The `limit` messages next to one end of what is unread, with the tool calls among them, oldest first.

        Also returns the position to which they reach; 0 and END are the ends of the thread. Both kinds are bounded: if
        there are more messages, or more calls, than that, the page is the shorter for it.
        """
        newest = end == "newest"
        if session is not None:
            await session.execute(FROM_THE_END)
        messages, more = await self._messages(session, newest, limit)
        reach = messages[-1].position if more else 0 if newest else self._from
        calls, more = await self._calls(session, newest, reach)
        if more:
            reach = calls[-1].position
        return ordered(messages, calls, reach, newest=newest), reach

    async def _messages(self, session: Session | None, newest: bool, limit: int) -> tuple[list[Said], bool]:
        rows, more = await self._weighed(session, _messages(newest), {"before": self._from}, limit)
        return [Said(*row) for row in rows], more

    async def _calls(self, session: Session | None, newest: bool, reach: int) -> tuple[list[Called], bool]:
        bounds = {"before": self._from, "behind": reach} if newest else {"before": reach, "behind": -1}
        rows, more = await self._weighed(session, _calls(newest), bounds, LARGEST_PAGE)
        return [Called(*row) for row in rows], more

    async def _weighed(
        self, session: Session | None, query: Query, bounds: dict[str, int], limit: int
    ) -> tuple[list[Sequence[Json]], bool]:
        """The rows of one of the queries below that are not too heavy, and whether there may be more."""
        of = {"thread_id": self._run.thread_id, "run_id": self._run.id}
        rows = await self._rows(session, query, {**of, **bounds, "limit": limit, "room": HEAVIEST - self._weight})
        kept = list(takewhile(lambda row: row[-2] is not None, rows))
        self._weight += sum(row[-1] for row in kept)
        self._full = self._full or len(kept) < len(rows)
        return [row[:-1] for row in kept], len(kept) < len(rows) or len(rows) == limit

    async def _rows(self, session: Session | None, query: Query, terms: dict[str, Json]) -> Sequence[Sequence[Json]]:
        if session is not None:
            return (await session.execute(query, terms)).all()
        if (direct := self._database.direct) is None:
            raise RuntimeError("there is no way to the database")
        return await written.fetch(direct, query, terms)


@lru_cache
def _said() -> Select[Message]:
    return select(Message).where(col(Message.run_id) == bindparam("of"))


@lru_cache
def _called() -> Select[RunStep]:
    return select(RunStep).where(col(RunStep.run_id) == bindparam("of"), IS_CALLS)


@lru_cache
def _messages(newest: bool) -> Query:
    """What lies before the run is not its own, and torn messages count nothing."""
    where: list[Json] = [
        col(Message.thread_id) == bindparam("thread_id"),
        col(Message.position) < bindparam("before"),
        or_(col(Message.run_id).is_(None), col(Message.run_id) != bindparam("run_id")),
        col(Message.status) != "in_progress",
        or_(col(Message.incomplete_details).is_(None), col(Message.incomplete_details)["reason"].astext != TORN),
    ]
    columns = (col(Message.position), col(Message.run_id), col(Message.role), col(Message.content))
    return _weighed(select(*columns).where(*where), newest)


@lru_cache
def _calls(newest: bool) -> Query:
    place = col(RunStep.position)
    where: list[Json] = [
        col(RunStep.thread_id) == bindparam("thread_id"),
        IS_CALLS,
        col(RunStep.run_id) != bindparam("run_id"),
        place < bindparam("before"),
        place > bindparam("behind"),
    ]
    return _weighed(select(place, col(RunStep.run_id), col(RunStep.step_details)).where(*where), newest)


def _weighed(query: Query, newest: bool) -> Query:
    """The first rows from one end. `query` begins with the position and ends with what is heavy, of which only so much
    leaves Postgres as there is room for, though always the first.

    Built once: to write it down anew would cost each run a millisecond and a half of Python.
    """
    place, *_, content = query.selected_columns
    query = query.add_columns(func.pg_column_size(content).label("weight"))
    page = query.order_by(place.desc() if newest else place).limit(bindparam("limit", type_=Integer)).subquery()
    at, *others, heavy, weight = page.c
    order = at.desc() if newest else at
    total = func.sum(weight).over(order_by=order)
    fits = or_(total <= bindparam("room", type_=BigInteger), total == weight)
    return select(at, *others, case((fits, heavy)), weight).order_by(order)


async def _measure(model: str, units: list[Unit]) -> None:
    """Count what has not been counted yet, all at once."""
    fresh = [unit for unit in units if unit.size is None]
    sizes = iter(await tokens.measure(model, [message for unit in fresh for message in unit.messages]))
    for unit in fresh:
        unit.size = sum(next(sizes) for _ in unit.messages)
