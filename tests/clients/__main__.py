"""Hold all conversations with the client that is installed here, and print what happened as one JSON object.

`python -m tests.clients` reads OPENAI_BASE_URL and OPENAI_API_KEY; and from standard input, as JSON, the `base_url` of
a server that plays streams, and which `requests` they answer. It must run under every release of the client, with
nothing else installed: only the standard library, `openai`, and the modules beside this one.
"""

import asyncio
import json
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import openai

from tests.clients import async_client, replayed, sync_client

TIMEOUT = 30


def main() -> None:
    """Print {"version", "sync": {conversation: facts}, "async": {conversation: facts}}."""
    played = json.load(sys.stdin)
    with openai.OpenAI(max_retries=0, timeout=TIMEOUT) as client:
        called = {name: _facts(hold, client) for name, hold in sync_client.CONVERSATIONS.items()}
        player = client.with_options(base_url=played["base_url"])
        called["replayed"] = replayed.play(player, played["requests"])
    awaited = asyncio.run(_hold_async(played))
    json.dump({"version": openai.__version__, "sync": called, "async": awaited}, sys.stdout)


def _facts(hold: Callable[[openai.OpenAI], dict[str, Any]], client: openai.OpenAI) -> dict[str, Any]:
    try:
        return hold(client)
    except Exception:  # the other conversations are held all the same
        return {"raised": traceback.format_exc()}


async def _hold_async(played: dict[str, Any]) -> dict[str, Any]:
    async with openai.AsyncOpenAI(max_retries=0, timeout=TIMEOUT) as client:
        told = {name: await _awaited(hold(client)) for name, hold in async_client.CONVERSATIONS.items()}
        player = client.with_options(base_url=played["base_url"])
        return {**told, "replayed": await replayed.play_async(player, played["requests"])}


async def _awaited(facts: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    try:
        return await facts
    except Exception:
        return {"raised": traceback.format_exc()}


if __name__ == "__main__":
    main()
