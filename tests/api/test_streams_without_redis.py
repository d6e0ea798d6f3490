"""What a listener hears when a part of the server fails meanwhile: the outcome, or an error that clients raise."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import openai
import pytest
from fastapi import FastAPI, Response
from redis.asyncio import Redis
from sqlalchemy.exc import OperationalError

from api.leaving import Leaving
from api.sse import Streams
from orchestrator import resources
from orchestrator.embedded.valkey import Valkey
from orchestrator.events.follower import Follower
from orchestrator.events.frames import START
from orchestrator.events.heard import Heard
from orchestrator.events.subscriber import Subscriber
from orchestrator.resources import Resources
from tests.api.checks import check_stream, parse
from tests.api.http import Http, path_of, read_until
from tests.stack import Stack


def test_case_61_a_stream_outlives_the_broker_and_ends_with_the_run(http: Http, working: Stack, tmp_path: Path) -> None:
    valkey = Valkey(tmp_path / "valkey", durable=False)
    try:
        body = {"assistant_id": http.assistant()["id"]}
        thread = http.thread("Hi")["id"]
        with (
            working.api(REDIS_URL=valkey.start()) as base_url,
            (elsewhere := Http(base_url)).client,
            elsewhere.streaming(f"/threads/{thread}/runs", body) as lines,
        ):
            begun = read_until(lines, "thread.run.queued")
            valkey.stop()
            (run,) = http.get(f"/threads/{thread}/runs")["data"]
            http.post(f"{path_of(run)}/cancel")
            events = parse("\n".join([*begun, *lines, ""]))
    finally:
        valkey.stop()

    check_stream(events)
    assert events[-2].name == "thread.run.cancelled"


@pytest.fixture
async def opened(stack: Stack) -> AsyncIterator[Resources]:
    """Connections as an API process has them."""
    async with resources.opened(stack.settings) as ours:
        yield ours


async def test_case_59_when_nobody_can_be_asked_any_more_the_client_raises(
    opened: Resources, unused_tcp_port: int
) -> None:
    async def away(_run_id: str, _heard: Heard, _everything: bool) -> bytes | None:
        raise OperationalError("SELECT", {}, ConnectionError("secret"))

    app = FastAPI()
    nowhere = Redis(port=unused_tcp_port)
    deaf = Subscriber(nowhere, opened.settings.model_copy(update={"redis_timeout": 0.05}))

    @app.post("/threads/{thread_id}/runs")
    async def create(thread_id: str) -> Response:
        return Streams(Follower(deaf, away, opened.settings), Leaving()).of("thread_1", "run_1", START)

    http_client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app))
    async with openai.AsyncOpenAI(base_url="http://server", api_key="x", http_client=http_client) as client:
        events = await client.beta.threads.runs.create("thread_1", assistant_id="asst_1", stream=True)
        with pytest.raises(openai.APIError, match="The event stream was interrupted") as caught:
            await anext(events)
    await nowhere.aclose()

    assert caught.value.type == "server_error"
    assert "secret" not in str(caught.value.body)
