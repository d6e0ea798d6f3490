"""One log format for every process: API, worker, Celery, uvicorn and SQL write the same lines.

JSON where nobody looks at a terminal, pretty where somebody does. Request, run and thread ids are bound once
(`structlog.contextvars`) and appear in every line below. Message content is never logged at info; what looks like a
secret is masked in every line, tracebacks included.

    structlog (ours) ──▶ _tell ──▶ _known, _described ─────┬─▶ JSON, or pretty ──▶ standard error
    logging (libraries) ──▶ handler ──▶ ProcessorFormatter ┘

What must not be forgotten:

- A run writes lines, so a line has to be cheap: ours do not pass through `logging`, which costs several times as much,
  and through no more of structlog than they need.
- Lines are written at once, whole, and by whoever logs. If nobody reads what a process says and the pipe is full, the
  process stands still, event loop included: the alternative is to lose lines. Its runs are others' after a while, and
  the watchdog ends it.
- That a line cannot be written is nobody's failure.
"""

import json
import logging
import re
import sys
import time
from collections.abc import MutableMapping
from contextvars import ContextVar, copy_context
from functools import lru_cache
from typing import Any, TextIO

import orjson
import structlog
from structlog import DropEvent
from structlog.contextvars import STRUCTLOG_KEY_PREFIX, merge_contextvars
from structlog.processors import StackInfoRenderer, TimeStamper, format_exc_info
from structlog.stdlib import ProcessorFormatter
from structlog.typing import Processor

from orchestrator.foreign import Json
from orchestrator.settings import Settings

SECRETS = re.compile(r"(?P<url>://[^:/@\s]*:)[^@\s/]+(?=@)|(?P<bearer>[Bb]earer\s+)\S+|(?P<key>sk-\w{2})[\w-]{6,}")
TRACES = (b"://", b"earer", b"sk-")
"""A line without any of these holds nothing that SECRETS would find."""

Line = MutableMapping[str, Any]

NOISY = ("uvicorn", "uvicorn.error", "uvicorn.access", "celery", "celery.worker", "kombu", "sqlalchemy.engine")
"""Loggers that bring handlers of their own."""
QUIET = ("uvicorn.access", "celery.app.trace", "celery.worker.strategy", "asyncio", "httpx2")
"""Loggers of which only warnings are wanted."""

_add_stack = StackInfoRenderer()


def mask(text: str) -> str:
    """`text` with passwords in URLs, bearer tokens and API keys replaced by `***`."""
    return SECRETS.sub(lambda found: f"{found['url'] or found['bearer'] or found['key']}***", text)


def configure(settings: Settings) -> None:
    """Send everything that this process logs to standard error in one format. Call it once, first."""
    pretty = settings.log_format == "pretty" or (settings.log_format == "auto" and sys.stderr.isatty())
    rendered: list[Processor] = [_mask_line, structlog.dev.ConsoleRenderer()] if pretty else [_json]
    level, stream = logging.getLevelNamesMapping()[settings.log_level.upper()], sys.stderr
    structlog.configure(
        processors=[_known, _described, *(rendered if pretty else [_bytes])],
        wrapper_class=type("Logger", (structlog.make_filtering_bound_logger(level),), {"_proxy_to_logger": _tell}),
        logger_factory=lambda *name: Writer(stream, *name),
        cache_logger_on_first_use=True,
    )
    foreign: list[Processor] = [
        merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        TimeStamper(fmt="iso", utc=True),
        _add_stack,
        format_exc_info,
        structlog.stdlib.ExtraAdder(),
    ]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=foreign,
            processors=[ProcessorFormatter.remove_processors_meta, _without_colours, *rendered],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in NOISY:
        logging.getLogger(noisy).handlers.clear()
        logging.getLogger(noisy).propagate = True
    for quiet in QUIET:
        logging.getLogger(quiet).setLevel(logging.WARNING)


class Writer:
    """What structlog hands a finished line to."""

    def __init__(self, stream: TextIO, name: str = "assistantd") -> None:
        self.name = name
        self._stream = stream
        self._beneath: Json = getattr(stream, "buffer", None)  # a stream of the caller's own may have none

    def write(self, line: str | bytes) -> None:
        """Write one line whole, whichever threads do so at once."""
        try:
            if isinstance(line, str):
                self._stream.write(line + "\n")
                self._stream.flush()
            elif self._beneath is None:
                self.write(line.decode())
            else:  # text would have to be encoded once more
                self._beneath.write(line + b"\n")
                self._beneath.flush()
        except (OSError, ValueError, RuntimeError):  # nobody reads; it is closed; a signal's handler came between
            return

    debug = info = warning = error = critical = write


def _tell(self: Json, level: str, event: str | None = None, **line: Json) -> None:
    """What structlog's loggers do with a line, without the copies and checks that ours do not need."""
    if self._context:
        line = {**self._context, **line}
    line["event"] = event
    try:
        for processor in self._processors:
            line = processor(self._logger, level, line)
    except DropEvent:
        return
    self._logger.write(line)


def _known(_logger: object, _level: str, line: Line) -> Line:
    """Add what is bound, as `merge_contextvars` does, at half its cost."""
    for variable, value in copy_context().items():
        name = _name(variable)
        if name and value is not ... and name not in line:
            line[name] = value
    return line


@lru_cache(maxsize=256)
def _name(variable: ContextVar[Json]) -> str:
    """What structlog binds by this variable; nothing if it is somebody else's."""
    name = variable.name
    return name.removeprefix(STRUCTLOG_KEY_PREFIX) if name.startswith(STRUCTLOG_KEY_PREFIX) else ""


def _described(logger: Json, level: str, line: Line) -> Line:
    """Say who, when and how grave; make texts of an exception and of a stack."""
    line["level"] = level
    line["logger"] = logger.name
    line["timestamp"] = _timestamp()
    if "stack_info" in line:
        line = _add_stack(logger, level, line)
    return format_exc_info(logger, level, line) if "exc_info" in line else line


def _timestamp() -> str:
    """Now, in UTC, as `datetime` would write it, at a tenth of the cost."""
    seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    return f"{_second(seconds)}.{microseconds:06}Z"


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _json(logger: object, level: str, line: Line) -> str:
    return _bytes(logger, level, line).decode()


def _bytes(_logger: object, _level: str, line: Line) -> bytes:
    try:
        rendered = orjson.dumps(line, default=repr, option=orjson.OPT_PASSTHROUGH_DATETIME)
    except TypeError:  # half a surrogate pair, a number beyond 64 bits, keys that are no texts
        rendered = json.dumps(line, default=repr).encode()
    for trace in TRACES:
        if trace in rendered:
            return json.dumps(_masked(json.loads(rendered))).encode()
    return rendered


def _masked(value: Json) -> Json:
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return {key: _masked(item) for key, item in value.items()} if isinstance(value, dict) else value


def _mask_line(_logger: object, _level: str, line: Line) -> Line:
    for key, value in line.items():
        if isinstance(value, str):
            line[key] = mask(value)
    return line


def _without_colours(_logger: object, _level: str, line: Line) -> Line:
    line.pop("color_message", None)  # uvicorn says everything twice, the second time for terminals
    return line
