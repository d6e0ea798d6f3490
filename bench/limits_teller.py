"""The least that can carry tokens from a model to Redis: hears runs asked for on a channel, publishes each delta.

    python -m bench.limits_teller --redis URL --model URL

Nothing is written down, nothing is kept: no rows, no stream, no way to hear anything twice. See `bench.limits_tokens`.
"""

import argparse
import asyncio

import orjson
import uvloop

from bench import limits_http, limits_redis
from bench.limits_direct import Told, pieces
from bench.limits_relay import ASKED

MESSAGE = b"msg_bench0000000000000000000"
OPTIONS = {"stream": True, "stream_options": {"include_usage": True}}


async def tell(frames: limits_redis.Frames, model: limits_http.BareModel, run_id: str, name: str) -> None:
    """One reply, from the model to Redis."""
    told = Told(1)
    messages = [{"role": "user", "content": "What shall we have for dinner?"}]
    first = True
    async for chunks in model.stream(orjson.dumps({"model": name, "messages": messages, **OPTIONS})):
        texts, _ = pieces(chunks)
        if texts:
            told.deltas(MESSAGE, texts, first=first)
            first = False
            frames.put(run_id, *told.take())
    told.event(b"thread.run.completed", b'{"object":"thread.run"}')
    told.event(b"done", b"[DONE]")
    frames.put(run_id, *told.take())


async def main(options: argparse.Namespace) -> None:
    """Serve until the process is ended."""
    frames = limits_redis.Frames(await limits_redis.connect(options.redis), keep=False)
    model = limits_http.BareModel(options.model)
    telling: set[asyncio.Task[None]] = set()

    def heard(kind: bytes, _channel: bytes, data: bytes) -> None:
        if kind == b"message":
            run_id, _, name = data.decode().partition(" ")
            task = asyncio.create_task(tell(frames, model, run_id, name))
            telling.add(task)
            task.add_done_callback(telling.discard)

    ears = await limits_redis.Ears.opened(options.redis, heard)
    ears.subscribe(ASKED)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The limit: tokens from a model to Redis.")
    parser.add_argument("--redis", required=True)
    parser.add_argument("--model", required=True)
    uvloop.run(main(parser.parse_args()))
