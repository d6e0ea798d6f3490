"""The task that delivers one event to the webhook's address."""

from orchestrator.webhooks import DELIVER
from workers.app import app
from workers.pool import async_task
from workers.runs import Worker


@async_task(app, name=DELIVER)
async def deliver(event_id: str) -> None:
    """Try once; a wake-up that comes twice or too early does nothing, and what fails is woken again."""
    await Worker.courier.deliver(event_id)
