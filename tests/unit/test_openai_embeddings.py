"""Numbers become base64 and back; what is no answer is trouble and nothing else."""

import base64
import struct
from typing import Any

import orjson
import pytest

from orchestrator.openai_embeddings import Encoding, in_encoding, is_about_encoding, without_encoding
from orchestrator.openai_errors import UpstreamTrouble

NUMBERS = [0.5, -1.25, 3.0]
PACKED = base64.b64encode(struct.pack("<3f", *NUMBERS)).decode()


def document(*embeddings: Any) -> bytes:
    data = [{"object": "embedding", "index": place, "embedding": each} for place, each in enumerate(embeddings)]
    return orjson.dumps({"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 1}})


@pytest.mark.parametrize(
    ("found", "encoding", "expected"),
    [
        (NUMBERS, "base64", PACKED),
        (PACKED, "float", NUMBERS),
        ([], "base64", ""),
        ("", "float", []),
        ([1], "float", [1]),
    ],
)
def test_an_embedding_is_put_into_the_encoding(found: Any, encoding: Encoding, expected: Any) -> None:
    converted = in_encoding(document(found, found), encoding)

    assert converted == document(expected, expected)


@pytest.mark.parametrize(("found", "encoding"), [(NUMBERS, "float"), (PACKED, "base64")])
def test_what_is_right_is_not_touched(found: Any, encoding: Encoding) -> None:
    answer = document(found)

    assert in_encoding(answer, encoding) is answer


@pytest.mark.parametrize("encoding", ["float", "base64"])
@pytest.mark.parametrize(
    "answer",
    [
        *(b"", b"[]", b"{}", b'{"data":null}', b'{"data":[1]}', b'{"data":[{}]}', b"<html>"),
        *(document(value) for value in (None, 7, {"a": 1})),
    ],
)
def test_what_is_no_answer_is_trouble(answer: bytes, encoding: Encoding) -> None:
    with pytest.raises(UpstreamTrouble, match="unreadable_reply"):
        in_encoding(answer, encoding)


@pytest.mark.parametrize(
    ("found", "encoding"), [(["a"], "base64"), ([1e300], "base64"), ("no base64!", "float"), ("AAA=", "float")]
)
def test_an_embedding_that_is_none_is_trouble(found: Any, encoding: Encoding) -> None:
    with pytest.raises(UpstreamTrouble, match="unreadable_reply"):
        in_encoding(document(found), encoding)


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (400, {"message": "Unsupported encoding_format"}, True),
        (422, {"message": "Input should be 'float'", "param": "encoding_format"}, True),
        (400, {"message": "Too long"}, False),
        (500, {"message": "encoding_format"}, False),
    ],
)
def test_a_refused_encoding_is_known(status: int, error: dict[str, str], expected: bool) -> None:
    assert is_about_encoding(UpstreamTrouble("status", status=status, error=error)) is expected


def test_a_request_may_leave_the_encoding_open() -> None:
    body = b'{"model": "m", "encoding_format": "base64", "input": "x"}'

    assert orjson.loads(without_encoding(body)) == {"model": "m", "input": "x"}
