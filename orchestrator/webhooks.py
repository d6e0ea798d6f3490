"""Events of runs for whoever does not wait: posted to one address, signed as the original signed its webhooks.

    lifecycle ─▶ row in `webhook_deliveries`, in the transition's own transaction ─▶ task ─▶ POST ─▶ 2xx: row deleted
                      ▲ tried again later, for hours ──────────────────────────────────────┘ anything else

The row is the outbox: what is committed is delivered, at least once. Tasks may be lost or repeated: a delivery is taken
by an UPDATE that closes it to others until `not_before`, and `sweep` sends the wake-ups again that nobody answered. An
event keeps its id over all attempts, so that receivers can tell what they have seen; its timestamp is each attempt's.
"""

import base64
import hashlib
import hmac
import time
from typing import TYPE_CHECKING, Self

import orjson
import structlog
from sqlalchemy import delete, func, select, update
from sqlmodel import col

from orchestrator.db import Database, Session
from orchestrator.foreign import Json
from orchestrator.openai_http import proxy_for
from orchestrator.settings import Settings
from orchestrator.tables import Run, WebhookDelivery

if TYPE_CHECKING:
    from orchestrator.http_client import Client

log = structlog.get_logger(__name__)

DELIVER = "webhooks.deliver"
"""The task that delivers an event; its argument is the event's id."""
TOLD = frozenset({"completed", "failed", "incomplete", "expired", "cancelled", "requires_action"})
"""Statuses that are events."""
PATIENCE = 30.0
"""Seconds that a wake-up may stay unanswered before `sweep` sends it again."""
LONGEST_WAIT = 6 * 3600.0
"""Seconds between two attempts at most."""
GROWTH = 4
BATCH = 200
"""Deliveries that one sweep wakes; the next sweep takes the next."""
AT_ONCE = 50
"""Deliveries that one worker process makes at the same time: a receiver that hangs must not hold up runs."""
SECRET_PREFIX = "whsec_"  # noqa: S105  # says what follows
UNSEEN = {"synchronize_session": False}


def record(session: Session, run: Run) -> None:
    """Note a transition of a run for delivery, after commit, if somebody wants to hear of it."""
    if not session.webhooks or run.status not in TOLD:
        return
    row = WebhookDelivery(type=f"thread.run.{run.status}", data={"id": run.id, "thread_id": run.thread_id})
    session.add(row)
    session.enqueue(DELIVER, row.id)


def signed(secret: str, event_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that prove who sent a body, as Standard Webhooks and the original have them."""
    payload = b"%s.%d.%s" % (event_id.encode(), timestamp, body)
    digest = hmac.new(key_of(secret), payload, hashlib.sha256).digest()
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def key_of(secret: str) -> bytes:
    """The bytes of a secret: `whsec_` and base64. Raises ValueError."""
    return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)


async def sweep(database: Database) -> int:
    """Wake the deliveries whose time has come: those to be tried again, and those whose task was lost. How many."""
    async with database.transaction() as session:
        due = select(col(WebhookDelivery.id)).where(col(WebhookDelivery.wake_at) <= func.now())
        due = due.order_by(col(WebhookDelivery.wake_at)).limit(BATCH).with_for_update(skip_locked=True)
        again = update(WebhookDelivery).where(col(WebhookDelivery.id).in_(due)).values(wake_at=_in(PATIENCE))
        found = await session.execute(again.returning(col(WebhookDelivery.id)), execution_options=UNSEEN)
        woken = found.scalars().all()
        for event_id in woken:
            session.enqueue(DELIVER, event_id)
    return len(woken)


class Courier:
    """Delivers events from one process. Open it first.

    Redirects are not followed, no cookie is kept, and of an answer only the status is read.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._url = settings.webhook_url or ""
        self._secret = "" if settings.webhook_secret is None else settings.webhook_secret.get_secret_value()
        self._under_way = 0
        self._client: Client | None = None

    async def __aenter__(self) -> Self:
        if self._url:
            from orchestrator.http_client import Client  # large, and few want to hear of events

            proxy, most = proxy_for(self._url), self._settings.webhook_timeout
            self._client = Client({"User-Agent": "assistantd"}, proxy, total=most)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()

    async def deliver(self, event_id: str) -> None:
        """Try once to deliver an event. Does nothing if it is delivered, at work elsewhere or not due, or if too many
        are under way here: then `sweep` comes back to it.
        """
        if self._client is None or self._under_way >= AT_ONCE:
            return
        self._under_way += 1
        try:
            delivery = await self._take(event_id)
            if delivery is not None:
                await self._settle(delivery, await self._post(self._client, delivery))
        finally:
            self._under_way -= 1

    async def _take(self, event_id: str) -> WebhookDelivery | None:
        """Close the row to others for longer than an attempt can last."""
        closed = _in(self._settings.webhook_timeout + PATIENCE)
        due = [col(WebhookDelivery.id) == event_id, col(WebhookDelivery.not_before) <= func.now()]
        free = select(col(WebhookDelivery.id)).where(*due).with_for_update(skip_locked=True).scalar_subquery()
        taken = update(WebhookDelivery).where(col(WebhookDelivery.id) == free)
        taken = taken.values(attempts=WebhookDelivery.attempts + 1, not_before=closed, wake_at=closed)
        async with self._database.transaction() as session:
            found = await session.execute(taken.returning(WebhookDelivery), execution_options=UNSEEN)
            return found.scalar_one_or_none()

    async def _post(self, client: "Client", delivery: WebhookDelivery) -> str | None:
        """Why it was not taken, or None if it was."""
        body = _body(delivery)
        headers = signed(self._secret, delivery.id, int(time.time()), body)
        try:
            response = await client.post(self._url, body, headers)
        except (TimeoutError, OSError) as error:
            return type(error).__name__
        response.close()
        return None if 200 <= response.status < 300 else str(response.status)

    async def _settle(self, delivery: WebhookDelivery, trouble: str | None) -> None:
        """Delete what is delivered or hopeless; of the rest, say when to try again."""
        mine = [col(WebhookDelivery.id) == delivery.id, col(WebhookDelivery.attempts) == delivery.attempts]
        facts = {"event_id": delivery.id, "type": delivery.type, "attempts": delivery.attempts}
        hopeless = trouble is not None and delivery.attempts >= self._settings.webhook_attempts
        async with self._database.transaction() as session:
            if trouble is None or hopeless:
                await session.execute(delete(WebhookDelivery).where(*mine), execution_options=UNSEEN)
            else:
                wait = min(self._settings.webhook_backoff * GROWTH ** (delivery.attempts - 1), LONGEST_WAIT)
                later = update(WebhookDelivery).where(*mine).values(not_before=_in(wait), wake_at=_in(wait))
                await session.execute(later, execution_options=UNSEEN)
        if hopeless:
            log.error("webhook_given_up", trouble=trouble, **facts)
        elif trouble is not None:
            log.warning("webhook_not_taken", trouble=trouble, **facts)
        else:
            log.info("webhook_delivered", **facts)


def _body(delivery: WebhookDelivery) -> bytes:
    """The same bytes at each attempt."""
    return orjson.dumps(
        {
            "id": delivery.id,
            "object": "event",
            "created_at": delivery.created_at,
            "type": delivery.type,
            "data": delivery.data,
        }
    )


def _in(seconds: float) -> Json:
    return func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
