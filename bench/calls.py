"""What a client does, one call after another: a model asked directly, and the Assistants API in its usual ways.

A call takes a client, a job and its own number, and returns the answer that counts: its times are those of the whole
call, from the first byte sent to the last one heard.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import orjson

from bench.client import ASSISTANTS, CHAT, Answer, Client

QUESTION = "What does this place look like in November, and is it worth the trip?"
MOVING = (b'"status":"queued"', b'"status":"in_progress"', b'"status":"cancelling"')


@dataclass(frozen=True)
class Job:
    """What is called, where. `paths` are those of threads or runs that calls take in turn, each its own first."""

    base_url: str
    call: str
    key: str = "sk-bench"
    model: str = ""
    assistant: str = ""
    paths: tuple[str, ...] = ()


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
    answer.first += before
    answer.total += before
    return answer


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


async def retrieve_run(client: Client, job: Job, number: int) -> Answer:
    """A run that is over."""
    return _plain(await client.ask("GET", job.paths[number % len(job.paths)]))


CALLS: dict[str, Call] = {
    call.__name__: call
    for call in (direct, streamed, stepwise, polled, waited, create_message, list_messages, create_run, retrieve_run)
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


def _message() -> bytes:
    return orjson.dumps({"role": "user", "content": QUESTION})


def _thread_and_run(job: Job, *, stream: bool) -> bytes:
    thread = {"messages": [{"role": "user", "content": QUESTION}]}
    return orjson.dumps({"assistant_id": job.assistant, "model": job.model, "thread": thread, "stream": stream})
