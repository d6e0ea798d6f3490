"""Fixtures that cost something are made once a session; what a test can change it makes itself."""

import traceback
from collections.abc import AsyncIterator, Iterator

import openai
import pytest
import pytest_asyncio

from orchestrator.open_files import allow_many
from tests import stack as stacks
from tests import wiretap
from tests.api.checks import check_exchange
from tests.conformance.plugin import Conformance
from tests.fakes.model_control import RemoteModelServer
from tests.leftovers import Leftovers
from tests.stack import API_KEY, Stack


def pytest_configure(config: pytest.Config) -> None:
    """Tests hold both ends of many connections; and those named after conformance cases are watched."""
    allow_many()
    config.pluginmanager.register(Conformance(config), "conformance")


@pytest.fixture(autouse=True)
def all_answers_are_checked() -> Iterator[None]:
    """Whatever any client was answered during a test, or before it for it, is what the official clients' types say."""
    yield
    while wiretap.HEARD:
        exchange = wiretap.HEARD.popleft()
        try:
            check_exchange(exchange)
        except (AssertionError, ValueError, KeyError):
            why = traceback.format_exc(limit=-3)
            pytest.fail(f"{exchange}\nis not what the official clients expect:\n{why}", pytrace=False)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Everything running: one API process, one worker process."""
    with stacks.running(tmp_path_factory.mktemp("stack")) as ours:
        ours.start_worker()
        ours.base_url = ours.start_api()
        yield ours


@pytest.fixture(scope="session")
def leftovers(stack: Stack) -> Iterator[Leftovers]:
    """Whoever ends the runs that tests leave on their way."""
    leftovers = Leftovers(stack)
    yield leftovers
    leftovers.close()


@pytest.fixture
def model(stack: Stack, leftovers: Leftovers) -> RemoteModelServer:
    """The scripted model server, with nothing scripted, and nobody on the way to it."""
    stack.model.reset()
    leftovers.end()
    stack.model.reset()
    return stack.model


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    """The official client, as a user makes one."""
    with openai.OpenAI(base_url=stack.base_url, api_key=API_KEY, max_retries=0, timeout=30) as client:
        yield client


@pytest_asyncio.fixture
async def async_client(stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official asynchronous client."""
    async with openai.AsyncOpenAI(base_url=stack.base_url, api_key=API_KEY, max_retries=0, timeout=30) as client:
        yield client
