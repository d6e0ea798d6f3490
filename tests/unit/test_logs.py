"""What a line of the log looks like, whoever writes it, and what it does not tell."""

import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from orchestrator import logs
from orchestrator.settings import Settings

KEY = "sk-abcdefghijklmnop"
MASKED = "sk-ab***"


class Log(io.StringIO):
    """What was written to standard error."""

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def settings() -> Settings:
    return Settings(DATABASE_URL=SecretStr("postgresql://x/y"), REDIS_URL=SecretStr("redis://x"))


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Iterator[Log]:
    root = logging.getLogger()
    before = root.handlers[:], root.level, structlog.get_config()
    written = Log()
    monkeypatch.setattr(sys, "stderr", written)
    logs.configure(settings)
    yield written
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    structlog.configure(**before[2])


def test_a_line_says_when_it_was_written(written: Log) -> None:
    before = datetime.now(UTC)
    structlog.get_logger("ours").info("it_happened")
    after = datetime.now(UTC)

    (line,) = written.lines()
    assert before <= datetime.fromisoformat(line["timestamp"]) <= after


def test_our_lines_and_those_of_libraries_have_the_same_fields(written: Log) -> None:
    with structlog.contextvars.bound_contextvars(run_id="run_1"):
        structlog.get_logger("ours").info("it_happened", größe=1)
        logging.getLogger("theirs").info("it %s", "happened", extra={"größe": 1})

    ours, theirs = written.lines()
    assert {**ours, "timestamp": 0} == {
        "event": "it_happened",
        "level": "info",
        "logger": "ours",
        "timestamp": 0,
        "run_id": "run_1",
        "größe": 1,
    }
    assert {**theirs, "timestamp": 0} == {**ours, "timestamp": 0, "event": "it happened", "logger": "theirs"}
    assert len(ours["timestamp"]) == len(theirs["timestamp"]) == len("2026-11-23T04:32:03.638364Z")


def test_what_is_below_the_level_is_not_written(written: Log) -> None:
    structlog.get_logger("ours").debug("detail")
    logging.getLogger("theirs").debug("detail")

    assert written.lines() == []


def test_secrets_are_masked_wherever_they_stand(written: Log) -> None:
    log = structlog.get_logger("ours")
    log.warning(KEY, url="redis://me:hunter2@host/1", deep={"header": [f"Bearer {KEY}"]}, error=ValueError(KEY))
    try:
        raise LookupError(KEY)
    except LookupError:
        log.exception("failed")
        logging.getLogger("theirs").exception("failed with %s", KEY)

    assert KEY not in written.getvalue()
    assert "hunter2" not in written.getvalue()
    first, second, third = written.lines()
    assert (first["event"], first["url"]) == (MASKED, "redis://me:***@host/1")
    assert first["deep"] == {"header": ["Bearer ***"]}
    assert f"LookupError: {MASKED}" in second["exception"]
    assert (second["level"], third["level"]) == ("error", "error")
    assert f"LookupError: {MASKED}" in third["exception"]


def test_a_line_is_written_of_whatever_is_logged(written: Log) -> None:
    structlog.get_logger("ours").info("odd", half="\ud800", huge=2**70, thing=object, keys={1: 2}, raw=b"\xff")

    (line,) = written.lines()
    assert (line["half"], line["huge"], line["keys"]) == ("\ud800", 2**70, {"1": 2})
    assert line["thing"] == "<class 'object'>"


def test_what_is_bound_is_in_every_line_until_it_is_not(written: Log) -> None:
    """A line's own fields go before what its logger was bound to, and that before what was bound around it."""
    log = structlog.get_logger("ours")
    with structlog.contextvars.bound_contextvars(run_id="run_1", attempt=1, step="a"):
        log.info("inside", step="b")
        log.bind(attempt=2, step="c").info("inside", step="d")
    log.info("outside")

    fields = [{key: line.get(key) for key in ("run_id", "attempt", "step")} for line in written.lines()]
    assert fields == [
        {"run_id": "run_1", "attempt": 1, "step": "b"},
        {"run_id": "run_1", "attempt": 2, "step": "d"},
        {"run_id": None, "attempt": None, "step": None},
    ]


def test_an_event_is_filled_in_and_a_stack_is_shown(written: Log) -> None:
    structlog.get_logger("ours").info("%s of %s", 1, 2, stack_info=True)

    (line,) = written.lines()
    assert line["event"] == "1 of 2"
    assert "test_an_event_is_filled_in" in line["stack"]


def test_a_file_gets_each_line_when_it_is_written_and_in_turn_with_those_of_libraries(
    settings: Settings, written: Log, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    with path.open("w", buffering=1) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        logs.configure(settings)
        log, seen = structlog.get_logger("ours"), []
        for tell in (log.info, logging.getLogger("theirs").info, log.warning):
            tell(f"größer als {KEY}")
            seen.append(path.read_text())

    assert [text.count("\n") for text in seen] == [1, 2, 3]
    lines = [json.loads(line) for line in seen[-1].splitlines()]
    assert [(line["logger"], line["event"]) for line in lines] == [
        (name, f"größer als {MASKED}") for name in ("ours", "theirs", "ours")
    ]
    assert written.lines() == []


def test_lines_of_several_threads_stay_whole(written: Log) -> None:
    def tell() -> None:
        for _ in range(200):
            structlog.get_logger("ours").info("told", text="x" * 500)
            logging.getLogger("theirs").info("told")

    threads = [threading.Thread(target=tell) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(written.lines()) == 1600


def test_a_log_that_cannot_be_written_ends_nothing(written: Log) -> None:
    written.close()

    structlog.get_logger("ours").info("lost")


def test_a_person_at_a_terminal_reads_the_same(
    written: Log, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", shown := io.StringIO())
    logs.configure(settings.model_copy(update={"log_format": "pretty"}))

    structlog.get_logger("ours").info("it_happened", key=KEY)
    logging.getLogger("theirs").info("it happened to %s", KEY)

    assert shown.getvalue().count(MASKED) == 2
    assert KEY not in shown.getvalue()
    assert shown.getvalue().count("\n") == 2
