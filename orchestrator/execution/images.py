"""Images that messages name by their file: sent to the model as data, because no model server can reach our files.

A prompt takes `MAX_TOTAL` bytes of images, the newest first. What is not sent (too much, deleted, expired) is told to
the model in words, so that a run does not fail for an image of long ago. Models take images from users only: one that
stands in a message of the assistant is sent as a user's message that follows it.
"""

import asyncio
from base64 import b64encode
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import PurePosixPath

import structlog

from orchestrator import files
from orchestrator.db import Database
from orchestrator.foreign import Json
from orchestrator.model import Delta, Model, Prompt
from orchestrator.storage import MissingBytesError, Storage
from orchestrator.wire.requests.messages import IMAGE_TYPES

MAX_TOTAL = 50 * 1024 * 1024
"""Bytes of all images of one prompt, before they grow by a third as base64 (the original's bound)."""
AT_ONCE = 4
"""Prompts of one process whose images are being read at the same time."""
IMAGES = frozenset({"image_file", "image_url"})

log = structlog.get_logger(__name__)


class Illustrated:
    """A `Model` that gets the images of its prompts from our files; what carries none goes straight to `model`."""

    def __init__(self, model: Model, database: Database, storage: Storage) -> None:
        self._model = model
        self._database = database
        self._storage = storage
        self._turns = asyncio.Semaphore(AT_ONCE)

    def stream(self, prompt: Prompt) -> AsyncGenerator[list[Delta], None]:
        """Ask, as `Model.stream` does; no transaction is open while bytes are read. Raises StorageError, too."""
        if any(part["type"] in IMAGES for part in _parts(prompt.messages)):
            return self._illustrated(prompt)
        return self._model.stream(prompt)

    async def models(self) -> list[Json]:
        """The models on offer."""
        return await self._model.models()

    async def retrieve(self, model_id: str) -> Json | None:
        """One of them."""
        return await self._model.retrieve(model_id)

    async def _illustrated(self, prompt: Prompt) -> AsyncGenerator[list[Delta], None]:
        # Nothing here holds on to the images while the model answers.
        async with aclosing(
            self._model.stream(replace(prompt, messages=await self._complete(prompt.messages)))
        ) as batches:
            async for deltas in batches:
                yield deltas

    async def _complete(self, messages: list[Json]) -> list[Json]:
        named = [part["image_file"]["file_id"] for part in _parts(messages) if part["type"] == "image_file"]
        if not named:
            return list(_spoken(messages))
        async with self._turns:
            urls = await self._urls(list(dict.fromkeys(reversed(named))))
        return list(_spoken([_filled(message, urls) for message in messages]))

    async def _urls(self, newest_first: list[str]) -> dict[str, str]:
        """Data URLs by file id, of those that are there and have room."""
        async with self._database.transaction() as session:
            found = await files.readable(session, newest_first)
        urls: dict[str, str] = {}
        room = MAX_TOTAL
        for file, blobs in found:
            if file.bytes > room:
                log.warning("image_not_sent", file_id=file.id, bytes=file.bytes)
                continue
            try:
                content = await files.content(self._storage, file, blobs)
            except MissingBytesError:  # it was deleted a moment ago
                continue
            urls[file.id] = await asyncio.to_thread(_data_url, file.filename, content)
            room -= file.bytes
        return urls


def _parts(messages: list[Json]) -> Iterator[Json]:
    for message in messages:
        if isinstance(message["content"], list):
            yield from message["content"]


def _data_url(filename: str, content: bytes) -> str:
    kind = IMAGE_TYPES.get(PurePosixPath(filename).suffix.lower(), "image/png")
    return f"data:{kind};base64,{b64encode(content).decode()}"


def _filled(message: Json, urls: dict[str, str]) -> Json:
    if not isinstance(message["content"], list):
        return message
    return {**message, "content": [_filled_part(part, urls) for part in message["content"]]}


def _filled_part(part: Json, urls: dict[str, str]) -> Json:
    if part["type"] != "image_file":
        return part
    image = part["image_file"]
    url = urls.get(image["file_id"])
    if url is None:
        return {"type": "text", "text": f"[The image {image['file_id']} is not available.]"}
    return {"type": "image_url", "image_url": {"url": url, "detail": image.get("detail", "auto")}}


def _spoken(messages: list[Json]) -> Iterator[Json]:
    """The same messages; an assistant's images follow it as a user's, though never between calls and results."""
    shown: list[Json] = []
    for message in messages:
        if shown and message["role"] != "tool":
            yield {"role": "user", "content": shown}
            shown = []
        content = message["content"]
        if message["role"] != "assistant" or not isinstance(content, list):
            yield message
            continue
        shown = [part for part in content if part["type"] in IMAGES]
        said = "\n".join(part["text"] for part in content if part["type"] == "text")
        if said or "tool_calls" in message:
            yield {**message, "content": said or None}
    if shown:
        yield {"role": "user", "content": shown}
