"""Lists: a page of rows around cursors that are ids, in the order of `position`, which never ties."""

from typing import TypeVar, cast

from sqlalchemy import ColumnElement, Select, select
from sqlmodel import SQLModel, col

from orchestrator.db import Session
from orchestrator.echo import echo
from orchestrator.errors import InvalidRequest
from orchestrator.tables import Assistant, File, Message, Run, RunStep, Thread
from orchestrator.wire.requests import ListFilesQuery, ListQuery
from orchestrator.wire.requests.lists import MAX_LIMIT

Row = TypeVar("Row", Assistant, File, Message, Run, RunStep, Thread)

Condition = ColumnElement[bool]


async def page(
    session: Session, table: type[Row], query: ListQuery | ListFilesQuery, *scope: Condition
) -> tuple[list[Row], bool]:
    """At most `query.limit` rows of `scope` between the exclusive cursors, and whether there are more beyond them.

    `after` walks on, `before` walks back: the rows nearest to the cursor, still in the requested order. Raises
    InvalidRequest for a cursor that is no object of the scope.
    """
    position = col(table.position)
    rising = query.order == "asc"
    bounds: list[Condition] = []
    if query.after is not None:
        at = await _position(session, table, "after", query.after, *scope)
        bounds.append(position > at if rising else position < at)
    if query.before is not None:
        at = await _position(session, table, "before", query.before, *scope)
        bounds.append(position < at if rising else position > at)
    backwards = query.before is not None and query.after is None
    ascending = rising != backwards
    found = select(table).where(*scope, *bounds).order_by(position.asc() if ascending else position.desc())
    rows = await _read(session, table, found.limit(query.limit + 1), large=query.limit > MAX_LIMIT)
    kept = rows[: query.limit]
    return kept[::-1] if backwards else kept, len(rows) > query.limit


async def _read(session: Session, table: type[Row], found: Select[Row], *, large: bool) -> list[Row]:
    """All rows; those of a large page as plain tuples with the columns' names, which is all that showing them takes.

    Making ten thousand objects that could be changed would stall everything else for a good part of a second.
    """
    if not large:
        return list((await session.execute(found)).scalars())
    columns = found.with_only_columns(*table.__table__.c)  # type: ignore[attr-defined]
    return cast("list[Row]", (await session.execute(columns)).all())


async def _position(session: Session, table: type[SQLModel], param: str, id_: str, *scope: Condition) -> int:
    columns = table.__table__.c  # type: ignore[attr-defined]
    found = (await session.execute(select(columns.position).where(columns.id == id_, *scope))).scalar_one_or_none()
    if found is None:
        raise InvalidRequest(
            f"Invalid '{param}': no object with id '{echo(id_, 64)}' in this list.", param=param, code="invalid_value"
        )
    return int(found)
