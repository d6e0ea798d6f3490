"""What kombu and Celery read as JSON, read by orjson: a message is three documents, each decoded for every task.

kombu's own decoder revives dates and the like from objects that carry `__type__`. Where the word occurs, it is asked.
"""

import orjson
from kombu.serialization import register
from kombu.utils import json as stock

from orchestrator.foreign import Json


def loads(document: bytes | str) -> Json:
    """The same as kombu's `loads`; raises ValueError where that does."""
    if (b"__type__" if isinstance(document, bytes) else "__type__") in document:  # type: ignore[operator]
        return stock.loads(document)
    try:
        return orjson.loads(document)
    except orjson.JSONDecodeError:  # NaN, lone surrogates: Python's own takes more
        return stock.loads(document)


def install() -> None:
    """Have this process read JSON so."""
    register("json", stock.dumps, loads, content_type="application/json", content_encoding="utf-8")
