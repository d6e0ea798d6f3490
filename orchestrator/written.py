"""Queries that are put together by SQLAlchemy, for the short way: each is written down once, then sent as it stands."""

from functools import lru_cache

from sqlalchemy import Select
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from orchestrator.direct import Direct
from orchestrator.foreign import Json


async def fetch(direct: Direct, query: Select[*tuple[Json, ...]], terms: dict[str, Json]) -> list[Json]:
    """The rows of a query that is built once. `terms` are its parameters, but for those that it knows by itself."""
    statement, names, known = _written(query)
    terms = {**known, **terms}
    return await direct.fetch(statement, *[terms[name] for name in names])


@lru_cache
def _written(query: Select[*tuple[Json, ...]]) -> tuple[str, tuple[str, ...], dict[str, Json]]:
    """Its text, the names of its parameters in their order, and the values of some."""
    written = query.compile(dialect=PGDialect_asyncpg())  # type: ignore[no-untyped-call]
    return str(written), tuple(written.positiontup or ()), dict(written.params)
