"""Ask for completions, embeddings and models with the client that is installed here; print it all as one JSON object.

`python -m tests.clients.passed_on` reads OPENAI_BASE_URL and OPENAI_API_KEY. As in `__main__`, nothing else than the
standard library and `openai` may be needed.
"""

import asyncio
import json
import sys
from typing import Any

import openai

TIMEOUT = 30
SAID = '[[text="Hello from the model."]]'
BROKEN = '[[fail=429 code=rate_limit_exceeded message="Slow down" retry_after=7]]'
Facts = dict[str, Any]


def main() -> None:
    """Print {"version", "sync": facts, "async": facts}."""
    with openai.OpenAI(max_retries=0, timeout=TIMEOUT) as client:
        called = asked(client)
    awaited = asyncio.run(_asked_async())
    json.dump({"version": openai.__version__, "sync": called, "async": awaited}, sys.stdout)


def asked(client: openai.OpenAI) -> Facts:
    """The same as `asked_async`, called."""
    stream = client.chat.completions.create(
        model="gpt-4o",
        messages=[{"role": "user", "content": SAID}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk.model_dump() for chunk in stream]
    whole = client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": SAID}])
    embedded = {name: client.embeddings.create(model=name, input="one").data[0].embedding for name in _MODELS}
    numbers = client.embeddings.create(model="base64-only", input="one", encoding_format="float").data[0].embedding
    try:
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": BROKEN}])
        refused: list[object] = []
    except openai.RateLimitError as error:
        refused = [error.code, error.response.headers["retry-after"]]
    try:
        client.models.retrieve("nothing")
        missing = None
    except openai.NotFoundError as error:
        missing = error.code
    return {
        **_heard(chunks),
        "whole": whole.choices[0].message.content,
        "embedded": embedded,
        "numbers": numbers,
        "refused": refused,
        "models": [client.models.retrieve(model.id).id for model in client.models.list()],
        "missing": missing,
    }


async def asked_async(client: openai.AsyncOpenAI) -> Facts:
    """What came of every operation that is passed on, and of the models."""
    stream = await client.chat.completions.create(
        model="gpt-4o",
        messages=[{"role": "user", "content": SAID}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk.model_dump() async for chunk in stream]
    whole = await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": SAID}])
    embedded = {name: (await client.embeddings.create(model=name, input="one")).data[0].embedding for name in _MODELS}
    numbers = await client.embeddings.create(model="base64-only", input="one", encoding_format="float")
    try:
        await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": BROKEN}])
        refused: list[object] = []
    except openai.RateLimitError as error:
        refused = [error.code, error.response.headers["retry-after"]]
    try:
        await client.models.retrieve("nothing")
        missing = None
    except openai.NotFoundError as error:
        missing = error.code
    return {
        **_heard(chunks),
        "whole": whole.choices[0].message.content,
        "embedded": embedded,
        "numbers": numbers.data[0].embedding,
        "refused": refused,
        "models": [(await client.models.retrieve(model.id)).id async for model in client.models.list()],
        "missing": missing,
    }


_MODELS = ("text-embedding-3-small", "numbers-only", "base64-only", "no-base64")


def _heard(chunks: list[Facts]) -> Facts:
    text = "".join(choice["delta"]["content"] or "" for chunk in chunks for choice in chunk["choices"])
    last = chunks[-1]
    return {"text": text, "usage": last["usage"]["total_tokens"] > 0, "last_has_no_choices": last["choices"] == []}


async def _asked_async() -> Facts:
    async with openai.AsyncOpenAI(max_retries=0, timeout=TIMEOUT) as client:
        return await asked_async(client)


if __name__ == "__main__":
    main()
