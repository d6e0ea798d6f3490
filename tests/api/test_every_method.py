"""Every method of the official client's resources is called, synchronous and asynchronous, plain, raw and streaming.

The methods are found by looking: one that a release adds and nothing here calls fails the first test. (Those of the
Node client are found and called in tests/clients/node/helpers.mjs.)
"""

import io
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.api.checks import Json
from tests.api.http import WEATHER, Http, outputs

pytestmark = pytest.mark.filterwarnings(
    "ignore:The `.content:DeprecationWarning", "ignore:use `stream:DeprecationWarning"
)

ROOTS = ("beta.assistants", "beta.threads", "files", "models", "uploads")
LATER = {"vector_stores"}
"""Resources that we do not have yet."""
OTHERS = {"agents", "chat", "chatkit", "realtime", "responses"}
"""Resources beside ours under `beta`: other products."""
POLL = {"poll_interval_ms": 20}


class World:
    """Objects to call methods on; what a call changes is made for it."""

    def __init__(self, http: Http, folder: Path) -> None:
        self.http = http
        self.folder = folder

    @cached_property
    def assistant(self) -> str:
        """An assistant with a function."""
        return str(self.http.assistant(tools=[WEATHER])["id"])

    @property
    def older_assistant(self) -> str:
        """The one before the newest."""
        older = self.http.assistant()
        self.http.assistant()
        return str(older["id"])

    @property
    def done(self) -> Json:
        """Where a run that is over is."""
        run = self.http.finish("Hi")
        return {"run_id": run["id"], "thread_id": run["thread_id"]}

    @property
    def waiting(self) -> Json:
        """Where a run is that waits for outputs."""
        run = self.http.ask_for_outputs()
        return {"run_id": run["id"], "thread_id": run["thread_id"]}

    @property
    def answered(self) -> Json:
        """What answers a run that waits."""
        run = self.http.ask_for_outputs()
        return {"run_id": run["id"], "thread_id": run["thread_id"], **outputs(run)}

    @property
    def thread(self) -> str:
        """A thread with a message."""
        return str(self.http.thread("Hi")["id"])

    @property
    def message(self) -> Json:
        """Where a message is."""
        thread = self.thread
        return {"message_id": self.http.messages(thread)[0]["id"], "thread_id": thread}

    @property
    def step(self) -> Json:
        """Where a step is."""
        run = self.http.finish("Hi")
        return {"step_id": self.http.steps(run)[0]["id"], "run_id": run["id"], "thread_id": run["thread_id"]}

    @property
    def run(self) -> Json:
        """What creates a run."""
        return {"thread_id": self.thread, "assistant_id": self.assistant}

    @property
    def thread_and_run(self) -> Json:
        """What creates a run with its thread."""
        return {"assistant_id": self.assistant, "thread": {"messages": [{"role": "user", "content": "Hi"}]}}

    @property
    def file(self) -> str:
        """A file that may be downloaded."""
        sent = self.http.client.post("/files", data={"purpose": "vision"}, files={"file": ("a.png", b"abc")})
        return str(sent.json()["id"])

    @property
    def older_file(self) -> str:
        """The one before the newest."""
        older = self.file
        return older if self.file else ""

    @property
    def upload(self) -> str:
        """An upload that wants three bytes."""
        wanted = {"bytes": 3, "filename": "a.txt", "mime_type": "text/plain", "purpose": "assistants"}
        return str(self.http.post("/uploads", wanted)["id"])

    @property
    def whole_upload(self) -> Json:
        """An upload that has them."""
        upload = self.upload
        part = self.http.client.post(f"/uploads/{upload}/parts", files={"data": ("part", b"abc")}).json()
        return {"upload_id": upload, "part_ids": [part["id"]]}

    @property
    def file_on_disk(self) -> Json:
        """A file of three parts, and what is said of it."""
        path = self.folder / "long.txt"
        path.write_bytes(b"x" * 250)
        return {"file": path, "mime_type": "text/plain", "purpose": "assistants"}


CALLS: dict[str, Callable[[World], Json]] = {
    "beta.assistants.create": lambda _: {"model": "gpt-4o"},
    "beta.assistants.retrieve": lambda world: {"assistant_id": world.assistant},
    "beta.assistants.update": lambda world: {"assistant_id": world.assistant, "name": "Ann"},
    "beta.assistants.list": lambda world: {"before": world.older_assistant, "limit": 2},
    "beta.assistants.delete": lambda world: {"assistant_id": world.http.assistant()["id"]},
    "beta.threads.create": lambda _: {},
    "beta.threads.retrieve": lambda world: {"thread_id": world.thread},
    "beta.threads.update": lambda world: {"thread_id": world.thread, "metadata": {"k": "v"}},
    "beta.threads.delete": lambda world: {"thread_id": world.thread},
    "beta.threads.create_and_run": lambda world: world.thread_and_run,
    "beta.threads.create_and_run_poll": lambda world: {**world.thread_and_run, **POLL},
    "beta.threads.create_and_run_stream": lambda world: world.thread_and_run,
    "beta.threads.messages.create": lambda world: {"thread_id": world.thread, "role": "user", "content": "Hi"},
    "beta.threads.messages.retrieve": lambda world: world.message,
    "beta.threads.messages.update": lambda world: {**world.message, "metadata": {"k": "v"}},
    "beta.threads.messages.list": lambda world: {"thread_id": world.thread},
    "beta.threads.messages.delete": lambda world: world.message,
    "beta.threads.runs.create": lambda world: world.run,
    "beta.threads.runs.retrieve": lambda world: world.done,
    "beta.threads.runs.update": lambda world: {**world.done, "metadata": {"k": "v"}},
    "beta.threads.runs.list": lambda world: {"thread_id": world.done["thread_id"]},
    "beta.threads.runs.cancel": lambda world: world.waiting,
    "beta.threads.runs.create_and_poll": lambda world: {**world.run, **POLL},
    "beta.threads.runs.create_and_stream": lambda world: world.run,
    "beta.threads.runs.stream": lambda world: world.run,
    "beta.threads.runs.poll": lambda world: {**world.done, **POLL},
    "beta.threads.runs.submit_tool_outputs": lambda world: world.answered,
    "beta.threads.runs.submit_tool_outputs_and_poll": lambda world: {**world.answered, **POLL},
    "beta.threads.runs.submit_tool_outputs_stream": lambda world: world.answered,
    "beta.threads.runs.steps.retrieve": lambda world: world.step,
    "beta.threads.runs.steps.list": lambda world: world.done,
    "files.create": lambda _: {"file": io.BytesIO(b"abc"), "purpose": "assistants"},
    "files.retrieve": lambda world: {"file_id": world.file},
    "files.list": lambda world: {"after": world.older_file, "limit": 2, "order": "asc"},
    "files.delete": lambda world: {"file_id": world.file},
    "files.content": lambda world: {"file_id": world.file},
    "files.retrieve_content": lambda world: {"file_id": world.file},
    "files.wait_for_processing": lambda world: {"id": world.file, "poll_interval": 0.02},
    "models.list": lambda _: {},
    "models.retrieve": lambda _: {"model": "gpt-4o"},
    "models.delete": lambda _: {"model": "gpt-4o"},
    "uploads.create": lambda _: {"bytes": 3, "filename": "a.txt", "mime_type": "text/plain", "purpose": "assistants"},
    "uploads.cancel": lambda world: {"upload_id": world.upload},
    "uploads.complete": lambda world: world.whole_upload,
    "uploads.upload_file_chunked": lambda world: {**world.file_on_disk, "part_size": 100},
    "uploads.parts.create": lambda world: {"upload_id": world.upload, "data": b"abc"},
}
"""What each method is called with."""
FORBIDDEN = {"models.delete"}
"""Methods that refuse: there is no model that a client may delete."""


@pytest.fixture
def world(http: Http, tmp_path: Path) -> World:
    return World(http, tmp_path)


@pytest.mark.parametrize("kind", [openai.OpenAI, openai.AsyncOpenAI])
def test_no_method_is_there_that_is_not_called_here(kind: type[Any]) -> None:
    client = kind(api_key="x")

    found = {f"{root}.{name}" for root in ROOTS for name in methods(resolved(client, root))}

    assert not found.symmetric_difference(CALLS)
    assert set(below(client.beta)) == OTHERS.union({"assistants", "threads"})
    assert set(below(client)) >= LATER


@pytest.mark.parametrize("kind", [openai.OpenAI, openai.AsyncOpenAI])
def test_every_method_that_sends_one_request_has_its_raw_and_streaming_form(kind: type[Any]) -> None:
    client = kind(api_key="x")

    for name in CALLS:
        raw, streaming = (callable(form(client, name, f"with_{how}_response")) for how in ("raw", "streaming"))
        assert (raw, streaming) == (name not in HELPERS,) * 2, name


HELPERS = {name for name in CALLS if name.endswith(("poll", "_stream", ".stream", "_for_processing", "_chunked"))}
"""Methods that are made of others, and have no raw form."""


@pytest.mark.parametrize("name", CALLS)
def test_the_synchronous_method_works(client: openai.OpenAI, world: World, name: str) -> None:
    arguments = CALLS[name](world)

    if name in FORBIDDEN:
        with pytest.raises(openai.PermissionDeniedError):
            resolved(client, name)(**arguments)
    else:
        assert settled(resolved(client, name)(**arguments))


@pytest.mark.parametrize("name", CALLS)
async def test_the_asynchronous_method_works(async_client: openai.AsyncOpenAI, world: World, name: str) -> None:
    arguments = CALLS[name](world)

    if name in FORBIDDEN:
        with pytest.raises(openai.PermissionDeniedError):
            await resolved(async_client, name)(**arguments)
    else:
        assert await awaited(resolved(async_client, name)(**arguments))


@pytest.mark.parametrize("name", sorted(CALLS.keys() - HELPERS - FORBIDDEN))
async def test_the_raw_and_the_streaming_form_work(
    client: openai.OpenAI, async_client: openai.AsyncOpenAI, world: World, name: str
) -> None:
    raw = form(client, name, "with_raw_response")(**CALLS[name](world))
    async with form(async_client, name, "with_streaming_response")(**CALLS[name](world)) as streaming:
        body = await streaming.read()

    assert raw.parse()
    assert raw.headers["x-request-id"]
    assert body
    assert streaming.status_code == 200


def resolved(client: Any, name: str) -> Any:
    """What stands under a name with dots."""
    for part in name.split("."):
        client = getattr(client, part)
    return client


def form(client: Any, name: str, how: str) -> Any:
    """A method's raw or streaming form, if it has one."""
    above, _, method = name.rpartition(".")
    return getattr(getattr(resolved(client, above), how), method, None)


def below(resource: Any) -> Iterator[str]:
    """The names of the resources under a resource."""
    for name in dir(type(resource)):
        inner = not name.startswith(("_", "with_")) and not callable(getattr(type(resource), name))
        if inner and hasattr(getattr(resource, name), "_client"):
            yield name


def methods(resource: Any, above: str = "") -> Iterator[str]:
    """The names of all methods of a resource and of those under it."""
    for name in dir(type(resource)):
        if not name.startswith("_") and callable(getattr(type(resource), name)):
            yield above + name
    for name in below(resource):
        yield from methods(getattr(resource, name), f"{above}{name}.")


def settled(answer: Any) -> Any:
    """What an answer comes to: the end of a stream, the items of a list, the bytes of a file."""
    if hasattr(answer, "__enter__"):
        with answer as stream:
            return stream.get_final_run().status
    if hasattr(answer, "get_next_page"):
        return list(answer)
    return answer.read() if hasattr(answer, "read") else answer


async def awaited(answer: Any) -> Any:
    """The same of an asynchronous client's."""
    if hasattr(answer, "__aenter__"):
        async with answer as stream:
            return (await stream.get_final_run()).status
    if hasattr(answer, "__aiter__"):
        return [item async for item in answer]
    answer = await answer
    return answer.read() if hasattr(answer, "read") else answer
