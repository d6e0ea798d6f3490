"""An API process is replaced while clients listen: they are told, and go on at the next one."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest
import redis

from orchestrator.embedded.process import free_port
from tests.api.checks import Json
from tests.api.conftest import make_client
from tests.api.http import PLAIN, Http, path_of
from tests.api.test_examples import EXAMPLES
from tests.fakes.model_control import RemoteModelServer
from tests.fakes.replies import Reply
from tests.stack import API_KEY, Stack

PATIENCE = 60.0


class Place:
    """An address at which one API process after the other serves."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._port = free_port()
        self.base_url = f"http://127.0.0.1:{self._port}/v1"
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Start a process and wait until it is ready."""
        self._process = self._stack.start("api", ASSISTANTD_API_PORT=str(self._port), ASSISTANTD_SHUTDOWN_GRACE="60")
        deadline = time.monotonic() + PATIENCE
        while not self._ready():
            assert time.monotonic() < deadline, self._stack.logs()
            time.sleep(0.05)

    def end(self) -> int:
        """Ask it to end; its exit code."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(PATIENCE)

    def _ready(self) -> bool:
        try:
            return httpx2.get(f"{self.base_url.removesuffix('/v1')}/readyz", verify=PLAIN).status_code == 200
        except httpx2.TransportError:
            return False


def until_heard(stack: Stack, run: dict[str, str]) -> None:
    """Return once some process listens to a run."""
    deadline = time.monotonic() + PATIENCE
    with redis.Redis.from_url(stack.environment["REDIS_URL"]) as broker:
        while not broker.pubsub_numsub(f"run:{run['id']}:events")[0][1]:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def place(working: Stack) -> Iterator[Place]:
    place = Place(working)
    place.begin()
    yield place
    place.end()


def test_the_official_client_raises_when_its_server_leaves_and_a_long_poll_is_answered(
    place: Place, working: Stack, http: Http, model: RemoteModelServer
) -> None:
    model.script(Reply.text("One two three.").held("deploy", after=1), Reply.text("Hello.").held("deploy"))
    elsewhere = Http(place.base_url)
    with make_client(place.base_url) as client, elsewhere.client, ThreadPoolExecutor(1) as pool:
        thread = http.thread("Count!")
        stream = client.beta.threads.runs.create(thread["id"], assistant_id=http.assistant()["id"], stream=True)
        while (event := next(stream)).event != "thread.message.delta":
            pass
        (run,) = http.get(f"/threads/{thread['id']}/runs")["data"]
        other = http.wait(http.start("Hi"), "in_progress")
        polling = pool.submit(elsewhere.client.get, path_of(other), params={"wait": 60})
        until_heard(working, other)

        assert place.end() == 0
        with pytest.raises(openai.APIError, match=f"follow it at /v1{path_of(run)}/events") as caught:
            next(stream)
        polled = polling.result(PATIENCE).json()

    assert event.event == "thread.message.delta"
    assert (caught.value.code, caught.value.type) == ("stream_interrupted", "server_error")
    assert polled["status"] == "in_progress"
    model.release("deploy")
    assert http.wait(run)["status"] == http.wait(other)["status"] == "completed"


def test_a_client_that_resumes_hears_the_whole_text_as_the_example_shows(
    place: Place, working: Stack, model: RemoteModelServer
) -> None:
    model.script(Reply.text("One two three four.").held("deploy", after=2))
    with subprocess.Popen(
        [sys.executable, EXAMPLES / "resuming.py"],
        env={**working.environment, "OPENAI_BASE_URL": place.base_url, "OPENAI_API_KEY": API_KEY},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # else what is read here takes more with it
    ) as example:
        assert example.stdout is not None
        assert example.stdout.read(1) == b"O"

        place.end()
        place.begin()
        model.release("deploy")
        rest, complaints = example.communicate(timeout=PATIENCE)

    assert (rest, complaints, example.returncode) == (b"ne two three four.\n[completed]\n", b"", 0)
    assert len(model.requests()) == 1


def test_a_client_that_resumes_hears_the_whole_text_although_events_were_lost(
    working: Stack, model: RemoteModelServer
) -> None:
    model.script(Reply.text("One two three four.").held("torn", after=2))
    with (
        redis.Redis.from_url(working.environment["REDIS_URL"]) as broker,
        subprocess.Popen(
            [sys.executable, EXAMPLES / "resuming.py"],
            env={**working.environment, "OPENAI_BASE_URL": working.base_url, "OPENAI_API_KEY": API_KEY},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        ) as example,
    ):
        assert example.stdout is not None
        assert example.stdout.read(1) == b"O"
        stream, attempt, seq = until_told(broker, b" two")
        lost = b"id: %d-%d\nevent: thread.message.delta\ndata: {}\n\n" % (attempt, seq + 2)  # one number is missing
        broker.xadd(stream, {"f": lost}, id=f"{attempt}-{seq + 2}")
        broker.publish(stream, lost)
        model.release("torn")
        rest, complaints = example.communicate(timeout=PATIENCE)

    assert (rest, complaints, example.returncode) == (b"ne two three four.\n[completed]\n", b"", 0)


def until_told(broker: "redis.Redis", word: bytes) -> tuple[str, int, int]:
    """The stream of the run of which this was told last, and the parts of its last id."""
    deadline = time.monotonic() + PATIENCE
    while True:
        for key in broker.scan_iter("run:*:events"):
            entries: Json = broker.xrevrange(key, count=1)
            for last, fields in entries:
                if b'"value":"%s"' % word in fields[b"f"]:
                    attempt, seq = map(int, last.split(b"-"))
                    return key.decode(), attempt, seq
        assert time.monotonic() < deadline
        time.sleep(0.01)
