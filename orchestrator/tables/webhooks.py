"""What is to be posted."""

from datetime import datetime

from sqlalchemy import Index
from sqlmodel import Field, SQLModel

from orchestrator import ids
from orchestrator.foreign import Json
from orchestrator.tables.columns import at_once, created, json


class WebhookDelivery(SQLModel, table=True):
    """An event that is to be posted, until it has been; see `webhooks`.

    `not_before` keeps others away: while somebody is at it, and until it is to be tried again. `wake_at` is when it is
    enqueued again if nothing has become of it by then.
    """

    __tablename__ = "webhook_deliveries"
    __table_args__ = (Index(None, "wake_at"),)

    id: str = Field(primary_key=True, default_factory=lambda: ids.new("evt_"))
    created_at: int = created()
    type: str
    data: Json = json({})
    attempts: int = 0
    not_before: datetime = at_once()
    wake_at: datetime = at_once()
