"""Bodies of the threads' verbs. The original takes `POST /threads` without any body: give the parameter a default."""

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.wire.requests.fields import Body, Metadata
from orchestrator.wire.requests.messages import CreateMessage
from orchestrator.wire.requests.tools import ToolResources, ToolResourcesOverride

MAX_INITIAL_MESSAGES = 32
"""Messages that one request can bring along, for a new thread and for a new run alike."""

InitialMessages = Annotated[list[CreateMessage], Field(max_length=MAX_INITIAL_MESSAGES, fail_fast=True)]

OnActiveRun = Literal["reject", "enqueue", "interrupt"]
"""An extension of the original, which knew `reject` only: what becomes of a run while another owns the thread."""


class CreateThread(Body):
    """POST /threads."""

    messages: InitialMessages = Field(default_factory=list)
    tool_resources: ToolResources | None = None
    metadata: Metadata = Field(default_factory=dict)
    on_active_run: OnActiveRun | None = None


class ModifyThread(Body):
    """POST /threads/{thread_id}: omitted keys leave the stored value unchanged."""

    tool_resources: ToolResourcesOverride | None = None
    metadata: Metadata = Field(default_factory=dict)
    on_active_run: OnActiveRun | None = None
