"""The assistants' verbs."""

from sqlalchemy import select
from sqlmodel import col

from orchestrator import ids
from orchestrator.db import Session
from orchestrator.errors import NotFound
from orchestrator.foreign import Json
from orchestrator.pages import page
from orchestrator.tables import Assistant
from orchestrator.wire.requests import CreateAssistant, ListQuery, ModifyAssistant

UNSET: dict[str, Json] = {"temperature": 1.0, "top_p": 1.0, "response_format": "auto", "tool_resources": {}}
"""What an explicit null stands for, where it is not null itself."""


async def create(session: Session, project_id: str, body: CreateAssistant) -> Assistant:
    """Store a new assistant."""
    assistant = Assistant(project_id=project_id, **_columns(body))
    session.add(assistant)
    await session.flush()
    return assistant


async def retrieve(session: Session, project_id: str, assistant_id: str, *, lock: bool = False) -> Assistant:
    """The assistant; with `lock`, its row stays locked until this transaction ends. Raises InvalidRequest for what
    cannot be its id, NotFound.
    """
    ids.check("assistant_id", "asst_", assistant_id)
    query = select(Assistant).where(col(Assistant.id) == assistant_id, col(Assistant.project_id) == project_id)
    if lock:
        query = query.with_for_update(key_share=True)
    assistant = (await session.execute(query)).scalar_one_or_none()
    if assistant is None:
        raise NotFound("assistant", assistant_id)
    return assistant


async def list_(session: Session, project_id: str, query: ListQuery) -> tuple[list[Assistant], bool]:
    """A page of the project's assistants, and whether there are more."""
    return await page(session, Assistant, query, col(Assistant.project_id) == project_id)


async def modify(session: Session, project_id: str, assistant_id: str, body: ModifyAssistant) -> Assistant:
    """Change what the body names; runs that were created before keep what they were created with."""
    assistant = await retrieve(session, project_id, assistant_id, lock=True)
    assistant.sqlmodel_update(_columns(body))
    await session.flush()
    return assistant


async def delete(session: Session, project_id: str, assistant_id: str) -> str:
    """Remove the assistant; its threads and runs stay. Returns its id."""
    await session.delete(await retrieve(session, project_id, assistant_id, lock=True))
    return assistant_id


def _columns(body: CreateAssistant | ModifyAssistant) -> dict[str, Json]:
    given = body.model_dump(exclude_unset=True)
    columns = {name: UNSET.get(name) if value is None else value for name, value in given.items()}
    if "metadata" in columns:
        columns["metadata_"] = columns.pop("metadata")
    return columns
