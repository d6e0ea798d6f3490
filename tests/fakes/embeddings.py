"""Embeddings of the scripted model server: the same text always has the same vector, in one of several manners.

The model's name decides how the server behaves:

| model | |
| --- | --- |
| text-embedding-3-small, any other | as the original: base64 if asked for it, numbers otherwise |
| numbers-only | numbers, whatever was asked for |
| base64-only | base64, whatever was asked for |
| no-base64 | refuses `encoding_format: base64` with 400 |
"""

import base64
import hashlib
import struct
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from tests.fakes import models

DIMENSIONS = 8


class Unacceptable(Exception):
    """The request is answered with 400; the first argument is the sentence, the second the field."""


def vector(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """The embedding of a text: numbers that 32 bits hold exactly."""
    digest = hashlib.sha256(text.encode()).digest()
    return [digest[place % len(digest)] / 256 - 0.5 for place in range(dimensions)]


def respond(body: Mapping[str, Any]) -> web.Response:
    """The answer to a request, or its refusal."""
    try:
        return models.answer(answer(body))
    except Unacceptable as why:
        return models.error(400, *why.args)
    except (TypeError, ValueError):
        return models.error(400, "'input' is not what it should be.", "input")


def answer(body: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a request. Raises Unacceptable."""
    model, given = body.get("model"), body.get("input")
    if not isinstance(model, str) or not given:
        raise Unacceptable("you must provide a model and an input", "input")
    wanted = body.get("encoding_format", "float")
    if model == "no-base64" and wanted == "base64":
        raise Unacceptable("Unsupported encoding_format: base64", "encoding_format")
    as_text = model == "base64-only" or (model != "numbers-only" and wanted == "base64")
    texts = [given] if isinstance(given, str) else given
    vectors = [vector(str(text), body.get("dimensions") or DIMENSIONS) for text in texts]
    data = [
        {"object": "embedding", "index": place, "embedding": _packed(numbers) if as_text else numbers}
        for place, numbers in enumerate(vectors)
    ]
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": 3, "total_tokens": 3}}


def _packed(numbers: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
