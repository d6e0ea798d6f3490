"""Rows without an ORM around them: the same names, and nothing that watches for changes.

To make an object of a table's class costs as much as a round trip's share of a run. Where a row is only read, which is
what a worker does with the runs that it carries, a `Record` stands for it. It is no part of any session: to change a
row is the statements' business, here as elsewhere.
"""

from collections.abc import Iterable
from typing import Final, TypeVar, cast

import orjson
from sqlalchemy import JSON, Table
from sqlmodel import SQLModel
from typing_extensions import TypeIs

from orchestrator.foreign import Json
from orchestrator.tables.conversations import Message
from orchestrator.tables.runs import Run, RunStep

Row = TypeVar("Row", Run, RunStep, Message)

RENAMED: Final = {"metadata": "metadata_"}
"""Columns whose attribute has another name."""


class Record:
    """A row of any table: its columns are the attributes."""

    def __init__(self, values: dict[str, Json]) -> None:
        self.__dict__ = values

    def __repr__(self) -> str:
        return f"Record({self.__dict__.get('id')!r})"


class Columns:
    """The columns of a table, as a statement selects them for records: JSON as text, which no driver can stumble over
    before it is known whose row it is.
    """

    def __init__(self, table: type[SQLModel]) -> None:
        columns: Table = table.__table__  # type: ignore[attr-defined]
        self._names = [RENAMED.get(column.name, column.name) for column in columns.c]
        self._json = [RENAMED.get(column.name, column.name) for column in columns.c if isinstance(column.type, JSON)]
        self._columns = [(column.name, isinstance(column.type, JSON)) for column in columns.c]

    def __len__(self) -> int:
        return len(self._names)

    def of(self, alias: str) -> str:
        """What to select, of a table under this name."""
        return ", ".join(f'{alias}."{name}"{"::text" if json else ""}' for name, json in self._columns)

    def values(self, row: Iterable[Json]) -> dict[str, Json]:
        """What a row holds, in their order. Raises ValueError if its JSON cannot be read."""
        values = dict(zip(self._names, row, strict=True))
        for name in self._json:
            if (text := values[name]) is not None:
                values[name] = orjson.loads(text)
        return values

    def unreadable(self, row: Iterable[Json]) -> list[str]:
        """The columns of a row, in the same order, of which the JSON cannot be read."""
        texts = dict(zip(self._names, row, strict=True))
        return [name for name in self._json if texts[name] is not None and not _is_json(texts[name])]


def run(values: dict[str, Json]) -> Run:
    """A run that is only read."""
    return cast("Run", Record(values))


def message(row: dict[str, Json]) -> Message:
    """A message that is only read, from its row as JSON."""
    return cast("Message", _from_json(row))


def step(row: dict[str, Json]) -> RunStep:
    """A step that is only read, from its row as JSON."""
    return cast("RunStep", _from_json(row))


def of(_: type[Row], values: dict[str, Json]) -> Row:
    """A row of that table, from its attributes."""
    return cast(Row, Record(values))  # noqa: TC006  # a type variable


def changed(row: Row, **values: Json) -> Row:
    """A record of a row, whatever that is made of, with other values."""
    return cast(Row, Record({**row.__dict__, **values}))  # noqa: TC006  # a type variable


def is_step(item: Message | RunStep) -> TypeIs[RunStep]:
    """Whether this is a step, whatever it is made of."""
    return hasattr(item, "step_details")


def _is_json(value: str) -> bool:
    try:
        orjson.loads(value)
    except ValueError:
        return False
    return True


def _from_json(row: dict[str, Json]) -> Record:
    return Record({RENAMED.get(name, name): value for name, value in row.items()})
