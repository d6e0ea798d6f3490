"""The worker of `bench.peers`: prefork, the official client with its typed chunks, an XADD for each of them.

celery -A bench.peers_worker worker -P prefork -c 8
"""

import asyncio
import json
import os
from functools import lru_cache

import openai
import redis
from celery import Celery
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from bench import peers_store
from bench.peers_store import PeerMessage, PeerRun, PeerStep

app = Celery("peers", broker=os.environ[peers_store.REDIS])
app.conf.update(task_ignore_result=True, task_acks_late=True, task_default_queue="peers")


class Process:
    """What a process of the pool opens with its first task."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.sessions: async_sessionmaker[AsyncSession] = peers_store.sessions(peers_store.engine())
        self.redis = redis.Redis.from_url(os.environ[peers_store.REDIS])
        self.openai = openai.OpenAI(base_url=os.environ[peers_store.MODEL], api_key="k", max_retries=0)

    def tell(self, run_id: str, event: str, data: dict[str, object]) -> None:
        """Append an event to the run's stream."""
        self.redis.xadd(f"peers:{run_id}", {"event": event, "data": json.dumps(data)})


@lru_cache
def process() -> Process:
    """That of this process."""
    return Process()


@app.task(name="peers.execute")
def execute(run_id: str) -> None:
    """Carry a run."""
    here = process()
    run, messages = here.loop.run_until_complete(_begin(here, run_id))
    here.tell(run_id, "thread.run.in_progress", {"id": run_id})
    said, message_id = [], peers_store.new("msg")
    stream = here.openai.chat.completions.create(
        model=run.model,
        messages=[{"role": "user", "content": message.content} for message in messages],
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        if chunk.choices and (text := chunk.choices[0].delta.content):
            said.append(text)
            delta = {"content": [{"index": 0, "type": "text", "text": {"value": text}}]}
            here.tell(run_id, "thread.message.delta", {"id": message_id, "delta": delta})
    here.loop.run_until_complete(_end(here, run, message_id, "".join(said)))
    here.tell(run_id, "thread.run.completed", {"id": run_id})
    here.redis.expire(f"peers:{run_id}", 60)


async def _begin(here: Process, run_id: str) -> tuple[PeerRun, list[PeerMessage]]:
    async with here.sessions() as session:
        run = await session.get_one(PeerRun, run_id)
        run.status = "in_progress"
        await session.commit()
    async with here.sessions() as session:
        query = select(PeerMessage).where(PeerMessage.thread_id == run.thread_id).order_by(PeerMessage.created_at)
        return run, [*(await session.execute(query)).scalars()]


async def _end(here: Process, run: PeerRun, message_id: str, said: str) -> None:
    at = peers_store.now()
    async with here.sessions() as session:
        row = PeerMessage(id=message_id, thread_id=run.thread_id, role="assistant", content=said, created_at=at)
        session.add(row)
        await session.commit()
    async with here.sessions() as session:
        session.add(PeerStep(id=peers_store.new("step"), run_id=run.id, status="completed"))
        await session.commit()
    async with here.sessions() as session:
        ended = await session.get_one(PeerRun, run.id)
        ended.status, ended.ended_at = "completed", at
        await session.commit()
