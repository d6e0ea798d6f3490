"""Clients, and further API processes of the same installation. (../conftest.py checks what they are answered.)"""

from collections.abc import AsyncIterator, Iterator

import openai
import pytest
import pytest_asyncio

from tests.api.http import PLAIN, Http
from tests.fakes.model_control import RemoteModelServer
from tests.stack import API_KEY, Stack


@pytest.fixture(scope="session")
def working(stack: Stack) -> Stack:
    """The stack, once its worker works: it starts longer than the API, and a busy machine makes it more."""
    http = Http(stack.base_url)
    with http.client:
        http.wait(http.start("Hi"), timeout=60)
    return stack


@pytest.fixture
def http(working: Stack, model: RemoteModelServer) -> Iterator[Http]:
    """The API over plain HTTP, in front of a model with nothing scripted."""
    http = Http(working.base_url)
    with http.client:
        yield http


@pytest.fixture
def client(working: Stack, model: RemoteModelServer) -> Iterator[openai.OpenAI]:
    """The official client."""
    with make_client(working.base_url) as client:
        yield client


def make_client(base_url: str) -> openai.OpenAI:
    """An official client of one API process."""
    plain = openai.DefaultHttpxClient(verify=PLAIN)
    return openai.OpenAI(base_url=base_url, api_key=API_KEY, max_retries=0, timeout=30, http_client=plain)


@pytest_asyncio.fixture
async def async_client(working: Stack, model: RemoteModelServer) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official asynchronous client."""
    plain = openai.DefaultAsyncHttpxClient(verify=PLAIN)
    async with openai.AsyncOpenAI(
        base_url=working.base_url, api_key=API_KEY, max_retries=0, timeout=30, http_client=plain
    ) as client:
        yield client


@pytest.fixture(scope="session")
def lonely_url(working: Stack) -> str:
    """An API process whose wake-ups reach no worker: its runs stay queued."""
    return working.start_api(REDIS_URL=working.environment["REDIS_URL"].removesuffix("/0") + "/1")


@pytest.fixture
def lonely(lonely_url: str, model: RemoteModelServer) -> Iterator[Http]:
    """Plain HTTP to an API process whose runs stay queued."""
    http = Http(lonely_url)
    with http.client:
        yield http


@pytest.fixture(scope="session")
def hasty_url(working: Stack) -> str:
    """An API process whose runs expire after three seconds, and whose silent streams carry comments."""
    return working.start_api(ASSISTANTD_RUN_LIFETIME="3", ASSISTANTD_STREAM_PING="0.2")


@pytest.fixture
def hasty(hasty_url: str, model: RemoteModelServer) -> Iterator[Http]:
    """Plain HTTP to an API process whose runs expire soon."""
    http = Http(hasty_url)
    with http.client:
        yield http
