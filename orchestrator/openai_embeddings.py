"""Embeddings in the encoding that was asked for: a list of numbers, or base64 of little-endian 32-bit floats.

Every official client asks for base64 when its user says nothing, and the Node client decodes whatever it gets; many
model servers know only lists. No I/O here, but much to compute for large answers: not for an event loop.
"""

import base64
import binascii
import struct
from typing import Final, Literal

import orjson

from orchestrator.foreign import Json
from orchestrator.openai_errors import UpstreamTrouble

Encoding = Literal["float", "base64"]

FIELD: Final = "encoding_format"
_REFUSALS: Final = (400, 422)


def is_about_encoding(trouble: UpstreamTrouble) -> bool:
    """Whether the upstream refuses a request because of the encoding that it asks for."""
    return trouble.status in _REFUSALS and (trouble.param == FIELD or FIELD in trouble.message)


def without_encoding(body: bytes) -> bytes:
    """The request, leaving the encoding to the upstream."""
    fields: dict[str, Json] = orjson.loads(body)
    fields.pop(FIELD, None)
    return orjson.dumps(fields)


def in_encoding(document: bytes, encoding: Encoding) -> bytes:
    """The answer with all embeddings in this encoding; unchanged if they are. Raises UpstreamTrouble if it is none."""
    encode = _to_base64 if encoding == "base64" else _to_floats
    try:
        answer = orjson.loads(document)
        found = [item["embedding"] for item in answer["data"]]
        converted = [encode(embedding) for embedding in found]
        if all(after is before for before, after in zip(found, converted, strict=True)):
            return document
        for item, embedding in zip(answer["data"], converted, strict=True):
            item["embedding"] = embedding
        return orjson.dumps(answer)
    except (KeyError, TypeError, ValueError, OverflowError, struct.error) as error:
        raise UpstreamTrouble("unreadable_reply") from error


def _to_base64(embedding: Json) -> Json:
    if isinstance(embedding, str):
        return embedding
    return base64.b64encode(struct.pack(f"<{len(embedding)}f", *embedding)).decode()


def _to_floats(embedding: Json) -> Json:
    if isinstance(embedding, list):
        return embedding
    try:
        packed = base64.b64decode(embedding, validate=True)
    except binascii.Error as error:
        raise ValueError("no base64") from error
    return list(struct.unpack(f"<{len(packed) // 4}f", packed))
