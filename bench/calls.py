"""What a client does, one call after another: a model asked directly, and the Assistants API in its usual ways.

A call takes a client, a job and its own number, and returns the answer that counts: its times are those of the whole
call, from the first byte sent to the last one heard.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import orjson

from bench.client import ASSISTANTS, CHAT, Answer, Client
from bench.scripts import FUNCTION, seconds_of

QUESTION = "What does this place look like in November, and is it worth the trip?"
OUTPUT = "Fog until noon, then seven degrees."
MOVING = (b'"status":"queued"', b'"status":"in_progress"', b'"status":"cancelling"')

_REQUIRED = re.compile(rb"event: thread\.run\.requires_action\ndata: (.*)\n")


@dataclass(frozen=True)
class Job:
    """What is called, where. `paths` are those of threads or runs that calls take in turn.

    `rounds` of `parallel` function calls are what the model asks for when it is called with tools.
    """

    base_url: str
    call: str
    key: str = "sk-bench"
    model: str = ""
    assistant: str = ""
    paths: tuple[str, ...] = ()
    rounds: int = 0
    parallel: int = 1


Call = Callable[[Client, Job, int], Awaitable[Answer]]


async def direct(client: Client, job: Job, _: int) -> Answer:
    """The model itself, streamed."""
    messages = [{"role": "user", "content": QUESTION}]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    body = orjson.dumps({"model": job.model, "messages": messages, **options})
    return await client.hear("/chat/completions", body, CHAT)


async def streamed(client: Client, job: Job, _: int) -> Answer:
    """A thread and a run in one request, streamed."""
    return await client.hear("/threads/runs", _thread_and_run(job, stream=True), ASSISTANTS)


async def stepwise(client: Client, job: Job, _: int) -> Answer:
    """A thread, a message, and a streamed run, each a request: first and end count from the first of them."""
    began = time.perf_counter()
    thread = (await client.ask("POST", "/threads", b"{}")).json["id"]
    await client.ask("POST", f"/threads/{thread}/messages", _message())
    run = orjson.dumps({"assistant_id": job.assistant, "model": job.model, "stream": True})
    before = time.perf_counter() - began
    answer = await client.hear(f"/threads/{thread}/runs", run, ASSISTANTS)
    return _later(answer, before)


async def polled(client: Client, job: Job, _: int) -> Answer:
    """A run that is asked for again as often as `openai-poll-after-ms` says."""
    return await _polled(client, job, "")


async def waited(client: Client, job: Job, _: int) -> Answer:
    """A run that is asked for once, with `wait`."""
    return await _polled(client, job, "?wait=60")


async def create_message(client: Client, job: Job, number: int) -> Answer:
    """A message more on a thread."""
    return _plain(await client.ask("POST", f"{job.paths[number % len(job.paths)]}/messages", _message()))


async def list_messages(client: Client, job: Job, number: int) -> Answer:
    """The newest page of a thread."""
    return _plain(await client.ask("GET", f"{job.paths[number % len(job.paths)]}/messages"))


async def create_run(client: Client, job: Job, number: int) -> Answer:
    """A run on a thread that has none; it is not waited for."""
    run = orjson.dumps({"assistant_id": job.assistant, "model": job.model})
    return _plain(await client.ask("POST", f"{job.paths[number % len(job.paths)]}/runs", run))


async def create_thread_and_run(client: Client, job: Job, _: int) -> Answer:
    """A thread and a run in one request; the run is not waited for."""
    return _plain(await client.ask("POST", "/threads/runs", _thread_and_run(job, stream=False)))


async def retrieve_run(client: Client, job: Job, number: int) -> Answer:
    """A run that is over."""
    return _plain(await client.ask("GET", job.paths[number % len(job.paths)]))


async def bare(client: Client, _job: Job, _number: int) -> Answer:
    """What the scripted model says without looking anything up: what an answer takes on this machine at the moment."""
    return _plain(await client.ask("GET", "/models"))


async def direct_tools(client: Client, job: Job, _: int) -> Answer:
    """The model itself, whose function calls are answered at once until it says something."""
    began = time.perf_counter()
    messages: list[dict[str, object]] = [{"role": "user", "content": QUESTION}]
    for number in range(job.rounds):
        body = orjson.dumps({"model": job.model, "messages": messages, "stream": True})
        await client.hear("/chat/completions", body, CHAT)
        calls = [
            {"id": f"call_{number}_{index}", "type": "function", "function": {"name": FUNCTION, "arguments": "{}"}}
            for index in range(job.parallel)
        ]
        messages.append({"role": "assistant", "tool_calls": calls})
        messages += [{"role": "tool", "tool_call_id": call["id"], "content": OUTPUT} for call in calls]
    before = time.perf_counter() - began
    body = orjson.dumps({"model": job.model, "messages": messages, "stream": True})
    return _later(await client.hear("/chat/completions", body, CHAT), before)


async def streamed_tools(client: Client, job: Job, _: int) -> Answer:
    """A streamed run whose function calls are answered at once until it completes."""
    began = time.perf_counter()
    answer = await client.hear("/threads/runs", _thread_and_run(job, stream=True), ASSISTANTS, keep=True)
    before = 0.0
    while found := _REQUIRED.search(answer.body):
        run = orjson.loads(found[1])
        calls = run["required_action"]["submit_tool_outputs"]["tool_calls"]
        outputs = [{"tool_call_id": call["id"], "output": OUTPUT} for call in calls]
        body = orjson.dumps({"tool_outputs": outputs, "stream": True})
        before = time.perf_counter() - began
        path = f"/threads/{run['thread_id']}/runs/{run['id']}/submit_tool_outputs"
        answer = await client.hear(path, body, ASSISTANTS, keep=True)
    return _later(answer, before)


async def stall(client: Client, job: Job, _: int) -> Answer:
    """A streamed run of which nothing is read while it lasts; then the connection is cut."""
    connection = await client.connect(buffer=4096)
    if connection.transport is not None:
        connection.transport.pause_reading()
        connection.transport.write(client.raw("POST", "/threads/runs", _thread_and_run(job, stream=True)))
        await asyncio.sleep(seconds_of(job.model)[1] + 1.0)
        connection.transport.abort()
    return Answer(status=200, ended=True)


CALLS: dict[str, Call] = {
    call.__name__: call
    for call in (
        *(direct, streamed, stepwise, polled, waited, direct_tools, streamed_tools, stall),
        *(create_message, list_messages, create_run, create_thread_and_run, retrieve_run, bare),
    )
}


async def _polled(client: Client, job: Job, query: str) -> Answer:
    began = time.perf_counter()
    answer = await client.ask("POST", "/threads/runs", _thread_and_run(job, stream=False))
    if answer.status != 200:
        return answer
    path = f"/threads/{answer.json['thread_id']}/runs/{answer.json['id']}{query}"
    while any(mark in answer.body for mark in MOVING):
        if not query:
            await asyncio.sleep(answer.poll_after or 1.0)
        answer = await client.ask("GET", path)
    answer.total = time.perf_counter() - began
    answer.ended = b'"status":"completed"' in answer.body
    return answer


def _plain(answer: Answer) -> Answer:
    answer.ended = True
    return answer


def _later(answer: Answer, before: float) -> Answer:
    """The last answer of several, with the time that those before it took."""
    answer.first += before
    answer.total += before
    return answer


def _message() -> bytes:
    return orjson.dumps({"role": "user", "content": QUESTION})


def _thread_and_run(job: Job, *, stream: bool) -> bytes:
    thread = {"messages": [{"role": "user", "content": QUESTION}]}
    return orjson.dumps({"assistant_id": job.assistant, "model": job.model, "thread": thread, "stream": stream})
