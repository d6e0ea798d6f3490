"""What each client makes of the streams of streams.py, through its streaming helpers and a handler."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any

import openai
from openai import AsyncOpenAI, OpenAI

from tests.clients import async_handler, sync_handler
from tests.clients.facts import Facts

PATIENCE = 0.5
"""Seconds until the client gives up a silent stream."""


def play(client: OpenAI, requests: Mapping[str, str]) -> dict[str, Facts]:
    """Ask for all streams; `requests` are those that they answer."""
    hasty = client.with_options(timeout=PATIENCE)
    found = {}
    for name, request in requests.items():
        handler = sync_handler.Handler()
        opened = _opened(hasty if name == "silence" else client, name, request, handler)
        raised = _listen(opened)
        found[name] = _facts(handler, raised)
    return found


async def play_async(client: AsyncOpenAI, requests: Mapping[str, str]) -> dict[str, Facts]:
    """The same through the asynchronous client."""
    hasty = client.with_options(timeout=PATIENCE)
    found = {}
    for name, request in requests.items():
        handler = async_handler.Handler()
        opened = _opened(hasty if name == "silence" else client, name, request, handler)
        raised = await _listen_async(opened)
        found[name] = _facts(handler, raised)
    return found


def _opened(client: Any, name: str, request: str, handler: object) -> Any:
    threads = client.beta.threads
    if request == "create_and_run":
        return threads.create_and_run_stream(assistant_id=name, event_handler=handler)
    if request == "run":
        return threads.runs.stream(thread_id=name, assistant_id="asst_A", event_handler=handler)
    return threads.runs.submit_tool_outputs_stream(
        run_id="run_R", thread_id=name, tool_outputs=[], event_handler=handler
    )


def _listen(opened: AbstractContextManager[Any]) -> Facts | None:
    try:
        with opened as stream:
            stream.until_done()
    except Exception as error:
        return _raised(error)
    return None


async def _listen_async(opened: AbstractAsyncContextManager[Any]) -> Facts | None:
    try:
        async with opened as stream:
            await stream.until_done()
    except Exception as error:
        return _raised(error)
    return None


def _raised(error: Exception) -> Facts:
    if isinstance(error, openai.APIError):
        return {"class": type(error).__name__, "text": error.message}
    return {"class": type(error).__name__, "text": str(error)}


def _facts(handler: Any, raised: Facts | None) -> Facts:
    return {
        "raised": raised,
        "status": handler.current_run and handler.current_run.status,
        "text": handler.text,
        "contents": handler.contents,
        "arguments": handler.arguments,
        "images": handler.images,
        "called": handler.called,
    }
