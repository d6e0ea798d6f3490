"""One log format for every process: API, worker, Celery, uvicorn and SQL write the same lines.

JSON where nobody looks at a terminal, pretty where somebody does. Request, run and thread ids are bound once
(`structlog.contextvars`) and appear in every line below. Message content is never logged at info; what looks like a
secret is masked in every line, tracebacks included.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from orchestrator.settings import Settings

SECRETS = re.compile(r"(?P<url>://[^:/@\s]*:)[^@\s/]+(?=@)|(?P<bearer>[Bb]earer\s+)\S+|(?P<key>sk-\w{2})[\w-]{6,}")

Line = MutableMapping[str, Any]

NOISY = ("uvicorn", "uvicorn.error", "uvicorn.access", "celery", "celery.worker", "kombu", "sqlalchemy.engine")
"""Loggers that bring handlers of their own."""
QUIET = ("uvicorn.access", "celery.app.trace", "celery.worker.strategy", "asyncio", "httpx2")
"""Loggers of which only warnings are wanted."""


def mask(text: str) -> str:
    """`text` with passwords in URLs, bearer tokens and API keys replaced by `***`."""
    return SECRETS.sub(lambda found: f"{found['url'] or found['bearer'] or found['key']}***", text)


def configure(settings: Settings) -> None:
    """Send everything that this process logs to standard error in one format. Call it once, first."""
    pretty = settings.log_format == "pretty" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if pretty else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _mask_line, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for noisy in NOISY:
        logging.getLogger(noisy).handlers.clear()
        logging.getLogger(noisy).propagate = True
    for quiet in QUIET:
        logging.getLogger(quiet).setLevel(logging.WARNING)


def _mask_line(_logger: object, _method: str, line: Line) -> Line:
    line.pop("color_message", None)  # uvicorn says everything twice, the second time for terminals
    for key, value in line.items():
        if isinstance(value, str):
            line[key] = mask(value)
    return line
