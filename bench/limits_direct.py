"""Plain asyncio that carries runs as directly as it can be written by hand: the limit that the worker is held against.

    python -m bench.limits_direct --database URL --redis URL --model URL [--client bare|aiohttp]

It writes the same rows and sends the same events as the worker for a plain run, with the same fences, and has none of
what makes a worker: no queue, no Celery, no leases, no cancel, no retries, no tools. Its standard input gives it work,
one line of JSON each: {"runs": [ids], "concurrency": 1000}; it answers each with a line once all are carried.
"""

import argparse
import asyncio
import secrets
import sys
import time
from collections import deque
from typing import Any

import orjson
import uvloop

from bench import limits_http, limits_redis
from bench.limits_statements import Statements

FRAGMENTS = ("tools", "tool_resources", "metadata", "truncation_strategy", "response_format", "tool_choice")
DETAILS = {"prompt_token_details": {"cached_tokens": 0}, "completion_tokens_details": {"reasoning_tokens": 0}}
PENDING: dict[str, Any] = {
    "incomplete_details": None,
    "incomplete_at": None,
    "completed_at": None,
    "role": "assistant",
    "content": [],
    "attachments": [],
    "metadata": {},
}
UNENDED = {"cancelled_at": None, "completed_at": None, "expired_at": None, "failed_at": None, "last_error": None}


DELTA = b'{"id":"%s","object":"thread.message.delta","delta":{"content":[{"index":0,"type":"text","text":{"value":'


class Told:
    """The events of one run, numbered and joined until somebody takes them."""

    def __init__(self, attempt: int) -> None:
        self._attempt = attempt
        self._seq = 0
        self._waiting: list[bytes] = []

    def event(self, name: bytes, data: bytes) -> None:
        """One more."""
        self._seq += 1
        self._waiting.append(b"id: %d-%d\nevent: %s\ndata: %s\n\n" % (self._attempt, self._seq, name, data))

    def deltas(self, message_id: bytes, texts: list[str], *, first: bool) -> None:
        """One more for each text."""
        head = DELTA % message_id
        tail = b',"annotations":[]}}]}}'
        for text in texts:
            self.event(b"thread.message.delta", head + orjson.dumps(text) + (tail if first else b"}}]}}"))
            first = False

    def take(self) -> tuple[bytes, bytes]:
        """The frames, and the cursor of the last of them."""
        frames = b"".join(self._waiting)
        self._waiting.clear()
        return frames, b"%d-%d" % (self._attempt, self._seq)


def run_object(row: Any) -> dict[str, Any]:
    """A run as clients see it while it is at work."""
    given: dict[str, Any] = dict(row)
    del given["attempt"], given["said"]
    for name in FRAGMENTS:
        given[name] = orjson.Fragment(given[name])
    return {
        **given,
        "object": "thread.run",
        "status": "in_progress",
        "cancelled_at": None,
        "failed_at": None,
        "completed_at": None,
        "required_action": None,
        "last_error": None,
        "reasoning_effort": None,
        "max_completion_tokens": None,
        "max_prompt_tokens": None,
        "incomplete_details": None,
        "usage": None,
    }


def question(row: Any) -> bytes:
    """The body of the request to the model."""
    said = [
        {"role": role, "content": "\n".join(part["text"]["value"] for part in content)}
        for role, content in orjson.loads(row["said"])
    ]
    messages = [{"role": "system", "content": row["instructions"]}, *said]
    body = {"model": row["model"], "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
    return orjson.dumps(body)


def pieces(chunks: list[Any]) -> tuple[list[str], dict[str, Any] | None]:
    """The texts of the chunks, and the usage if it is among them."""
    texts, usage = [], None
    for chunk in chunks:
        if choices := chunk["choices"]:
            if text := choices[0]["delta"].get("content"):
                texts.append(text)
        elif chunk["usage"]:
            usage = chunk["usage"]
    return texts, usage


class Direct:
    """Carries runs. `carry` is the whole of it."""

    def __init__(self, statements: Statements, frames: limits_redis.Frames, model: Any, owner: str) -> None:
        self._statements = statements
        self._frames = frames
        self._model = model
        self.owner = owner

    async def carry(self, run_id: str) -> None:
        """Claim, ask, tell, finish."""
        row = await self._statements.claim(run_id)
        told, run = Told(row["attempt"]), run_object(row)
        told.event(b"thread.run.in_progress", orjson.dumps(run))
        self._frames.put(run_id, *told.take(), lasting=True)
        said: list[str] = []
        message: dict[str, Any] = {}
        step: dict[str, Any] = {}
        usage: dict[str, Any] = {}
        async for chunks in self._model.stream(question(row)):
            texts, used = pieces(chunks)
            usage = used or usage
            if not texts:
                continue
            if not message:
                message, step = await self._open(row, told)
            told.deltas(message["id"].encode(), texts, first=not said)
            said += texts
            self._frames.put(run_id, *told.take())
        await self._finish(run, row["attempt"], message, step, "".join(said), {**usage, **DETAILS})
        for name, data in ((b"thread.message.completed", message), (b"thread.run.step.completed", step)):
            told.event(name, orjson.dumps(data))
        told.event(b"thread.run.completed", orjson.dumps(run))
        self._frames.put(run_id, *told.take(), lasting=True)

    async def _open(self, row: Any, told: Told) -> tuple[dict[str, Any], dict[str, Any]]:
        message_id, step_id = f"msg_{secrets.token_hex(12)}", f"step_{secrets.token_hex(12)}"
        at = int(time.time())
        await self._statements.open(row["id"], row["attempt"], message_id, step_id, at)
        of = {"created_at": at, "assistant_id": row["assistant_id"], "thread_id": row["thread_id"], "run_id": row["id"]}
        message = {"id": message_id, "object": "thread.message", **of, "status": "in_progress", **PENDING}
        details = {"type": "message_creation", "message_creation": {"message_id": message_id}}
        step = {"id": step_id, "object": "thread.run.step", **of, "type": "message_creation", "status": "in_progress"}
        step |= {**UNENDED, "expires_at": row["expires_at"], "step_details": details, "metadata": {}, "usage": None}
        for kind, opened in ((b"thread.run.step", step), (b"thread.message", message)):
            data = orjson.dumps(opened)
            told.event(kind + b".created", data)
            told.event(kind + b".in_progress", data)
        return message, step

    async def _finish(
        self, run: dict[str, Any], attempt: int, message: dict[str, Any], step: dict[str, Any], said: str, usage: Any
    ) -> None:
        at, used = int(time.time()), orjson.dumps(usage)
        content = orjson.dumps([{"type": "text", "text": {"value": said, "annotations": []}}])
        texts = (content.decode(), used.decode())
        done = await self._statements.finish(run["id"], attempt, message["id"], step["id"], *texts, at)
        message |= {"status": "completed", "completed_at": at, "content": orjson.Fragment(content)}
        step |= {"status": "completed", "completed_at": at, "usage": orjson.Fragment(used)}
        run |= {"status": "completed", "completed_at": done[1], "usage": orjson.Fragment(used), "expires_at": None}


async def carry_all(direct: Direct, runs: list[str], concurrency: int) -> None:
    """Carry all runs, so many at once."""
    left = deque(runs)

    async def one_after_another() -> None:
        while left:
            await direct.carry(left.popleft())

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(runs))):
            group.create_task(one_after_another())


async def main(options: argparse.Namespace) -> None:
    """Do what standard input says, until it ends."""
    frames = limits_redis.Frames(await limits_redis.connect(options.redis))
    owner = "direct"
    statements = await Statements.opened(options.database, owner)
    model = {"bare": limits_http.BareModel, "aiohttp": limits_http.AiohttpModel}[options.client](options.model)
    direct = Direct(statements, frames, model, owner)
    loop = asyncio.get_running_loop()
    print("ready", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        asked = orjson.loads(line)
        await carry_all(direct, asked["runs"], asked["concurrency"])
        await frames.sent()
        print("done", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The limit: plain asyncio that carries runs.")
    for name in ("--database", "--redis", "--model"):
        parser.add_argument(name, required=True)
    parser.add_argument("--client", choices=("bare", "aiohttp"), default="bare")
    uvloop.run(main(parser.parse_args()))
