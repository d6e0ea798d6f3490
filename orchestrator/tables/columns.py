"""What columns of all tables have in common: wire times, positions, JSON, metadata, owners."""

import time
from typing import Any

from sqlalchemy import BigInteger, Column, ColumnElement, DateTime, FetchedValue, ForeignKey, Sequence, cast, func, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

SQLModel.metadata.naming_convention = {
    "ix": "%(table_name)s_%(column_0_N_name)s",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "pk": "%(table_name)s_pkey",
}
POSITIONS = Sequence("positions", metadata=SQLModel.metadata)
JSON = postgresql.JSON(none_as_null=True)
"""Kept as it came: JSONB would sort the keys, and the order of a schema's properties steers what a model writes."""


EPOCH: ColumnElement[int] = cast(func.floor(func.extract("epoch", func.statement_timestamp())), BigInteger)
"""The same as `now`, by the database's clock: what decides when a run is over must be the same for all hosts."""


def now() -> int:
    """The time on the wire: whole unix seconds, by this host's clock. It decides nothing about runs."""
    return int(time.time())


def position() -> Any:
    """A place in lists; the database gives it."""
    return Field(
        default=None, sa_type=BigInteger, nullable=False, sa_column_kwargs={"server_default": POSITIONS.next_value()}
    )


def json(default: Any = None, *, nullable: bool = False) -> Any:
    """JSON, in the shape of the wire."""
    return Field(default_factory=lambda: default, sa_type=JSON, nullable=nullable)


def time_(*, nullable: bool = True) -> Any:
    """A time, or a span, of the wire."""
    return Field(default=None if nullable else ..., sa_type=BigInteger, nullable=nullable)


def created() -> Any:
    """When the row was made."""
    return Field(default_factory=now, sa_type=BigInteger, nullable=False)


def by_database() -> Any:
    """A time of the wire that may be given as an expression, such as `EPOCH`: what became of it is read back."""
    read_back = {"server_default": FetchedValue()}
    return Field(default_factory=now, sa_type=BigInteger, nullable=False, sa_column_kwargs=read_back)


def at_once() -> Any:
    """A time of the database's clock; now, unless somebody says otherwise."""
    return Field(
        default=None,
        sa_type=DateTime(timezone=True),
        nullable=False,
        sa_column_kwargs={"server_default": text("now()")},
    )


def metadata() -> Any:
    """The client's pairs."""
    return Field(default_factory=dict, sa_column=Column("metadata", JSONB, nullable=False))


def owner(table: str) -> Any:
    """Whose row this is, and with whom it goes."""
    return Field(sa_column=Column(ForeignKey(f"{table}.id", ondelete="CASCADE"), nullable=False))
