"""The API of `bench.peers`: FastAPI, a task by `apply_async`, and one blocking read for each listener.

uvicorn bench.peers_api:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from redis.asyncio import Redis

from bench import peers_store
from bench.peers_store import PeerMessage, PeerRun
from bench.peers_worker import execute

ENGINE = peers_store.engine()
SESSIONS = peers_store.sessions(ENGINE)
REDIS = Redis.from_url(os.environ[peers_store.REDIS], max_connections=1000, socket_timeout=None, protocol=2)


class Content(BaseModel):
    """A message to begin with."""

    role: str
    content: str


class Begun(BaseModel):
    """The messages of a new thread."""

    messages: list[Content]


class Asked(BaseModel):
    """A thread and a run."""

    assistant_id: str
    model: str
    thread: Begun
    stream: bool = False


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Make the tables."""
    async with ENGINE.begin() as connection:
        await connection.run_sync(peers_store.Base.metadata.create_all)
    yield


app = FastAPI(lifespan=lifespan)


@app.get("/readyz")
async def ready() -> dict[str, bool]:
    """Whether it serves."""
    return {"ready": True}


@app.post("/v1/threads/runs", response_model=None)
async def create(asked: Asked) -> StreamingResponse:
    """A thread and a run, streamed."""
    thread_id, run_id, at = peers_store.new("thread"), peers_store.new("run"), peers_store.now()
    async with SESSIONS() as session:
        for message in asked.thread.messages:
            given = {"role": message.role, "content": message.content}
            session.add(PeerMessage(id=peers_store.new("msg"), thread_id=thread_id, created_at=at, **given))
        await session.commit()
    async with SESSIONS() as session:
        session.add(PeerRun(id=run_id, thread_id=thread_id, model=asked.model, status="queued", created_at=at))
        await session.commit()
    await run_in_threadpool(execute.apply_async, (run_id,))
    return StreamingResponse(_listen(run_id), media_type="text/event-stream")


async def _listen(run_id: str) -> AsyncIterator[bytes]:
    last: Any = "0"
    while True:
        found: Any = await REDIS.xread({f"peers:{run_id}": last}, block=5000)
        for last, fields in found[0][1] if found else ():  # noqa: B007  # where the next read goes on
            yield b"event: %s\ndata: %s\n\n" % (fields[b"event"], fields[b"data"])
            if fields[b"event"] == b"thread.run.completed":
                return
