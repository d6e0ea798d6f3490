"""Who may speak: projects and their bearer keys. A key is shown once, when it is made; only its hash is kept.

`Keys` remembers for some seconds whose key it has seen, by its hash. So a key that is taken away may open the plain
cases (see `plain`) for TRUSTED seconds more; a new one opens them at once, because what is wrong is not remembered.
"""

import hashlib
import time
from collections import OrderedDict
from typing import Final

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from orchestrator.db import Session
from orchestrator.direct import Direct
from orchestrator.errors import Unauthenticated
from orchestrator.tables import ApiKey, Project

DEFAULT = "default"
TRUSTED: Final = 5.0
"""Seconds for which a key is believed without asking."""
REMEMBERED: Final = 10_000
"""Keys of which that is known, in one process."""

NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY)."
)
WRONG_KEY = "Incorrect API key provided: {hint}. The operator of this server hands out its keys."


async def authenticate(session: Session, authorization: str | None) -> str:
    """The id of the project whose key the `Authorization` header carries. Raises Unauthenticated."""
    key = _presented(authorization)
    if key is None:
        raise Unauthenticated(NO_KEY)
    found = await session.execute(select(col(ApiKey.project_id)).where(col(ApiKey.hash) == _hash(key)))
    project_id = found.scalar_one_or_none()
    if project_id is None:
        raise Unauthenticated(WRONG_KEY.format(hint=hint(key)), code="invalid_api_key")
    return project_id


class Keys:
    """Whose key a request carries, asked for once in a while. One per process."""

    def __init__(self, direct: Direct) -> None:
        self._direct = direct
        self._known: OrderedDict[str, tuple[str, float]] = OrderedDict()

    async def project(self, authorization: str | None) -> str | None:
        """The id of the project; None if there is no such key."""
        key = _presented(authorization)
        if key is None:
            return None
        hash_, time_ = _hash(key), time.monotonic()
        project_id, until = self._known.get(hash_, ("", 0.0))
        if time_ < until:
            return project_id
        rows = await self._direct.fetch("SELECT project_id FROM api_keys WHERE hash = $1", hash_)
        if not rows:
            self._known.pop(hash_, None)
            return None
        self._known[hash_] = rows[0]["project_id"], time_ + TRUSTED
        self._known.move_to_end(hash_)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return str(rows[0]["project_id"])


async def register(session: Session, key: str, project: str = DEFAULT) -> None:
    """Make `key` a key of the named project, which is made too if need be. Doing it again changes nothing."""
    row = Project(name=project)
    await session.execute(
        insert(Project).values(id=row.id, name=project, created_at=row.created_at).on_conflict_do_nothing()
    )
    project_id = (await session.execute(select(col(Project.id)).where(col(Project.name) == project))).scalar_one()
    new = ApiKey(project_id=project_id, hash=_hash(key), hint=hint(key))
    values = {"id": new.id, "project_id": project_id, "hash": new.hash, "hint": new.hint, "created_at": new.created_at}
    await session.execute(insert(ApiKey).values(values).on_conflict_do_nothing())


def hint(key: str) -> str:
    """A key as people may see it: first and last characters around stars; a short one is all stars."""
    safe = "".join(character if character.isprintable() else "?" for character in key)
    return f"{safe[:3]}{'*' * 8}{safe[-4:]}" if len(safe) >= 16 else "*" * 8


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _presented(authorization: str | None) -> str | None:
    scheme, _, key = (authorization or "").strip().partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None
