"""What Postgres stores: one class per noun, as the client sees it, plus what a run needs to be carried out safely.

Wire times are whole unix seconds, as clients know them; only leases and wake-ups, which the database's own clock
decides, are timestamps. `position` comes from one sequence for all tables: it never ties, so lists are ordered by it,
and messages and run steps of a thread can be told in the order in which they happened. JSON columns are replaced, never
changed in place: an in-place change would be lost without a word. SQLAlchemy owns the name `metadata`, hence
`metadata_`.
"""

from orchestrator.tables.columns import EPOCH, now
from orchestrator.tables.conversations import Assistant, Message, Thread
from orchestrator.tables.files import Blob, File, Upload, UploadPart
from orchestrator.tables.projects import ApiKey, Project
from orchestrator.tables.runs import (
    ACTIVE,
    HOLDS_PLACE,
    IS_ACTIVE,
    IS_SUSPECT,
    IS_UNFINISHED,
    IS_WAITING,
    LACKS_PLACE,
    Run,
    RunStep,
)
from orchestrator.tables.webhooks import WebhookDelivery
from orchestrator.tables.workers import RunAttempt, Worker

__all__ = [
    "ACTIVE",
    "EPOCH",
    "HOLDS_PLACE",
    "IS_ACTIVE",
    "IS_SUSPECT",
    "IS_UNFINISHED",
    "IS_WAITING",
    "LACKS_PLACE",
    "ApiKey",
    "Assistant",
    "Blob",
    "File",
    "Message",
    "Project",
    "Run",
    "RunAttempt",
    "RunStep",
    "Thread",
    "Upload",
    "UploadPart",
    "WebhookDelivery",
    "Worker",
    "now",
]
