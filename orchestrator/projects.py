"""Who may speak: projects and their bearer keys. A key is shown once, when it is made; only its hash is kept."""

import hashlib

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from orchestrator.db import Session
from orchestrator.errors import Unauthenticated
from orchestrator.tables import ApiKey, Project

DEFAULT = "default"

NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY)."
)
WRONG_KEY = "Incorrect API key provided: {hint}. The operator of this server hands out its keys."


async def authenticate(session: Session, authorization: str | None) -> str:
    """The id of the project whose key the `Authorization` header carries. Raises Unauthenticated."""
    scheme, _, key = (authorization or "").strip().partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        raise Unauthenticated(NO_KEY)
    found = await session.execute(select(col(ApiKey.project_id)).where(col(ApiKey.hash) == _hash(key)))
    project_id = found.scalar_one_or_none()
    if project_id is None:
        raise Unauthenticated(WRONG_KEY.format(hint=hint(key)), code="invalid_api_key")
    return project_id


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
