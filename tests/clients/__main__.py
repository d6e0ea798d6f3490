"""Hold all conversations with the client that is installed here, and print what happened as one JSON object.

`python -m tests.clients` reads OPENAI_BASE_URL and OPENAI_API_KEY. It must run under every release of the client, with
nothing else installed: only the standard library, `openai`, and the modules beside this one.
"""

import asyncio
import json
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import openai

from tests.clients import async_client, sync_client

TIMEOUT = 30


def main() -> None:
    """Print {"version", "sync": {conversation: facts}, "async": {conversation: facts}}."""
    with openai.OpenAI(max_retries=0, timeout=TIMEOUT) as client:
        called = {name: _facts(hold, client) for name, hold in sync_client.CONVERSATIONS.items()}
    awaited = asyncio.run(_hold_async())
    json.dump({"version": openai.__version__, "sync": called, "async": awaited}, sys.stdout)


def _facts(hold: Callable[[openai.OpenAI], dict[str, Any]], client: openai.OpenAI) -> dict[str, Any]:
    try:
        return hold(client)
    except Exception:  # the other conversations are held all the same
        return {"raised": traceback.format_exc()}


async def _hold_async() -> dict[str, Any]:
    async with openai.AsyncOpenAI(max_retries=0, timeout=TIMEOUT) as client:
        return {name: await _awaited(hold(client)) for name, hold in async_client.CONVERSATIONS.items()}


async def _awaited(facts: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    try:
        return await facts
    except Exception:
        return {"raised": traceback.format_exc()}


if __name__ == "__main__":
    main()
