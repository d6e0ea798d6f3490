"""What clients are told when too many runs wait for a place: 429, and when to come again. The official one obeys."""

import re
from collections.abc import Callable, Iterator

import httpx2
import openai
import pytest
import pytest_asyncio
import sqlalchemy as sa
from openai.types.beta.threads import Run as WireRun

from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.tables import Thread
from tests.api.http import PLAIN
from tests.stack import Stack

KEY = "sk-asst-integration-0123456789"


@pytest.fixture(scope="module")
def crowded_url(stack: Stack, bare_settings: Settings, project_id: str) -> Iterator[str]:
    """An API process in whose projects one run may be at work, and one may wait. No worker is there.

    It ends with these tests: it keeps the time in a database where others play with it.
    """
    url = bare_settings.database_url.get_secret_value()
    with stack.api(DATABASE_URL=url, ASSISTANTD_PROJECT_RUNS="1", ASSISTANTD_PROJECT_QUEUE="1") as base_url:
        yield base_url


class Client(openai.OpenAI):
    """The official client, with something that happens once, when it is first told to come again."""

    def __init__(self, base_url: str, retries: int) -> None:
        http = openai.DefaultHttpxClient(verify=PLAIN, event_hooks={"response": [self.told]})
        super().__init__(base_url=base_url, api_key=KEY, max_retries=retries, timeout=30, http_client=http)
        self.statuses: list[int] = []
        self.then: Callable[[], object] | None = None

    def told(self, response: httpx2.Response) -> None:
        """Note the answer."""
        self.statuses.append(response.status_code)
        if response.status_code == 429 and (act := self.then):
            self.then = None
            act()

    def start(self, assistant_id: str) -> WireRun:
        """A run on a thread of its own."""
        return self.beta.threads.create_and_run(assistant_id=assistant_id)


@pytest.fixture
def impatient(crowded_url: str) -> Iterator[Client]:
    """A client that never tries again."""
    with Client(crowded_url, retries=0) as client:
        yield client


@pytest_asyncio.fixture
async def full(bare: Resources, impatient: Client) -> tuple[str, list[WireRun]]:
    """An assistant, and as many runs of it as there may be."""
    async with bare.database.transaction() as session:
        await session.execute(sa.delete(Thread))
    assistant = impatient.beta.assistants.create(model="gpt-4o")
    return assistant.id, [impatient.start(assistant.id) for _ in range(2)]


def test_the_official_client_raises_a_rate_limit_error_that_says_when_to_come_again(
    impatient: Client, full: tuple[str, list[WireRun]]
) -> None:
    assistant_id, _ = full
    thread = impatient.beta.threads.create()

    creations: tuple[Callable[[], object], ...] = (
        lambda: impatient.start(assistant_id),
        lambda: impatient.beta.threads.runs.create(thread.id, assistant_id=assistant_id),
    )
    for again in creations:
        with pytest.raises(openai.RateLimitError) as refused:
            again()
        seconds = refused.value.response.headers["retry-after"]
        assert re.fullmatch("[1-5]", seconds)
        assert refused.value.code == "rate_limit_exceeded"
        assert f"Please try again in {seconds}s." in refused.value.message
    assert impatient.beta.threads.runs.list(thread.id).data == []


def test_what_needs_no_place_is_not_refused(impatient: Client, full: tuple[str, list[WireRun]]) -> None:
    _, (at_work, waits) = full

    assert impatient.beta.threads.runs.retrieve(waits.id, thread_id=waits.thread_id).status == "queued"
    thread = impatient.beta.threads.create(messages=[{"role": "user", "content": "Hi"}])
    assert impatient.beta.threads.messages.list(thread.id).data
    for run in (waits, at_work):
        assert impatient.beta.threads.runs.cancel(run.id, thread_id=run.thread_id).status == "cancelling"


def test_the_official_client_comes_again_by_itself_and_gets_in_when_there_is_room(
    crowded_url: str, full: tuple[str, list[WireRun]]
) -> None:
    assistant_id, (first, _) = full

    with Client(crowded_url, retries=2) as patient:
        patient.then = lambda: patient.beta.threads.runs.cancel(first.id, thread_id=first.thread_id)
        run = patient.start(assistant_id)

    assert run.status == "queued"
    assert patient.statuses == [429, 200, 200]
