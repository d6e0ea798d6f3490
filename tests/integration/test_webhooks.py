"""The delivery of events: taken by one courier at a time, tried again while there is hope, nothing lost."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from pydantic import SecretStr, ValidationError
from sqlalchemy import delete, func, select, update
from sqlmodel import col

from orchestrator.embedded.process import free_port
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.tables import WebhookDelivery
from orchestrator.webhooks import PATIENCE, Courier, sweep
from tests.fakes.receiver import Receiver

SECRET = "whsec_" + base64.b64encode(b"a secret of twenty-four b").decode()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


@pytest_asyncio.fixture
async def row(bare: Resources) -> AsyncIterator[str]:
    """The id of an event that waits."""
    async with bare.database.transaction() as session:
        delivery = WebhookDelivery(type="thread.run.completed", data={"id": "run_x", "thread_id": "thread_x"})
        session.add(delivery)
    yield delivery.id
    async with bare.database.transaction() as session:
        await session.execute(delete(WebhookDelivery))


@asynccontextmanager
async def courier(bare: Resources, url: str, **settings: float) -> AsyncIterator[Courier]:
    hooked = {"webhook_url": url, "webhook_secret": SecretStr(SECRET), "webhook_backoff": 1000, **settings}
    async with Courier(bare.database, bare.settings.model_copy(update=hooked)) as found:
        yield found


async def left(bare: Resources) -> list[tuple[int, float]]:
    """Attempts, and seconds until the next, of all that is not delivered."""
    wait = func.extract("epoch", col(WebhookDelivery.not_before) - func.now())
    async with bare.database.transaction() as session:
        return [(row[0], float(row[1])) for row in await session.execute(select(col(WebhookDelivery.attempts), wait))]


async def let_time_pass(bare: Resources) -> None:
    """All that waits is due."""
    async with bare.database.transaction() as session:
        await session.execute(update(WebhookDelivery).values(not_before=func.now(), wake_at=func.now()))


async def test_what_is_taken_is_delivered_once_and_forgotten(bare: Resources, row: str, receiver: Receiver) -> None:
    async with courier(bare, receiver.url) as ours, courier(bare, receiver.url) as theirs:
        await asyncio.gather(*(each.deliver(row) for each in [ours, theirs] * 5))
        await ours.deliver(row)

    ((headers, body),) = receiver.got
    assert headers["webhook-id"] == row
    assert headers["content-type"] == "application/json"
    assert json.loads(body)["data"] == {"id": "run_x", "thread_id": "thread_x"}
    assert await left(bare) == []


@pytest.mark.parametrize("status", [500, 404, 302])
async def test_what_is_refused_is_tried_again_later_and_later(
    bare: Resources, row: str, receiver: Receiver, status: int
) -> None:
    receiver.answers = [status] * 3

    async with courier(bare, receiver.url) as ours:
        for attempt, wait in ((1, 1000), (2, 4000), (3, 16000)):
            await ours.deliver(row)
            await ours.deliver(row)  # too early
            ((attempts, seconds),) = await left(bare)
            assert attempts == attempt == len(receiver.got)
            assert wait - 60 < seconds <= wait
            await let_time_pass(bare)
        await ours.deliver(row)

    assert await left(bare) == []
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert len({body for _, body in receiver.got}) == 1


async def test_the_wait_has_an_upper_bound(bare: Resources, row: str, receiver: Receiver) -> None:
    receiver.answers = [500]

    async with courier(bare, receiver.url, webhook_backoff=1e9) as ours:
        await ours.deliver(row)

    ((_, seconds),) = await left(bare)
    assert seconds <= 6 * 3600


async def test_a_dead_receiver_is_tried_again(bare: Resources, row: str) -> None:
    async with courier(bare, f"http://127.0.0.1:{free_port()}/") as ours:
        await ours.deliver(row)

    assert [attempts for attempts, _ in await left(bare)] == [1]


async def test_an_event_is_given_up_in_the_end(bare: Resources, row: str, receiver: Receiver) -> None:
    receiver.answers = [500] * 3

    async with courier(bare, receiver.url, webhook_attempts=2) as ours:
        for _ in range(3):
            await ours.deliver(row)
            await let_time_pass(bare)

    assert len(receiver.got) == 2
    assert await left(bare) == []


async def test_a_courier_that_was_killed_leaves_the_event_to_others_after_a_while(
    bare: Resources, row: str, receiver: Receiver
) -> None:
    async with courier(bare, receiver.url) as ours:
        await ours._take(row)  # and no more of it
        await ours.deliver(row)
        assert receiver.got == []
        ((_, seconds),) = await left(bare)
        assert seconds > PATIENCE
        await let_time_pass(bare)
        await ours.deliver(row)

    assert len(receiver.got) == 1
    assert await left(bare) == []


async def test_sweeping_wakes_what_is_due_and_not_again_before_its_time(bare: Resources, row: str) -> None:
    assert (await sweep(bare.database), await sweep(bare.database)) == (1, 0)
    await let_time_pass(bare)
    assert await sweep(bare.database) == 1


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("https://hooks.example/", None),
        ("https://hooks.example/", "whsec_"),
        ("https://hooks.example/", "whsec_no base64"),
        ("https://hooks.example/", "c2VjcmV0"),
        ("ftp://hooks.example/", SECRET),
        ("hooks.example", SECRET),
    ],
)
def test_settings_that_cannot_work_are_refused(url: str, secret: str | None) -> None:
    names = {"DATABASE_URL": "postgresql://x/y", "REDIS_URL": "redis://x"}

    with pytest.raises(ValidationError, match="ASSISTANTD_WEBHOOK_"):
        Settings.model_validate({**names, "webhook_url": url, "webhook_secret": secret})
