"""What is left when a storm is over: the rows, what the model was asked, what clients saw."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tests.chaos.cluster import Cluster
from tests.chaos.history import History
from tests.chaos.plan import Blow
from tests.chaos.traces import Claim, Silence, attendance, claims, silences

Row = dict[str, Any]
WORD = re.compile(r"\b(w\d{4,}x)\?")
TIMES = ("completed_at", "failed_at", "cancelled_at", "expired_at")

RUNS = """
SELECT id, thread_id, position, status, attempt, owner, waiting, usage, metadata ->> 'word' AS word,
       created_at, started_at, expires_at, completed_at FROM runs ORDER BY position"""
STEPS = """
SELECT id, run_id, position, type, status, usage, step_details,
       created_at, completed_at, failed_at, cancelled_at, expired_at,
       extract(epoch FROM pg_xact_commit_timestamp(xmin))::float AS written_at FROM run_steps ORDER BY position"""
MESSAGES = """
SELECT id, thread_id, run_id, position, role, status, content, created_at FROM messages ORDER BY position"""


@dataclass(frozen=True)
class Call:
    """The model was asked for a turn of a run. `delivered_at` is None if its answer did not get through to its end."""

    word: str
    turn: int
    at: float
    delivered_at: float | None


@dataclass
class Facts:
    """See the module. `locked` are the threads that refuse a message; `blows` are those that were struck, with `at` in
    unix seconds.
    """

    runs: list[Row]
    steps: list[Row]
    messages: list[Row]
    calls: list[Call]
    histories: list[History]
    claims: list[Claim] = field(default_factory=list)
    silences: list[Silence] = field(default_factory=list)
    attendance: list[tuple[float, float]] = field(default_factory=list)
    blows: list[Blow] = field(default_factory=list)
    locked: list[str] = field(default_factory=list)

    def of_word(self, word: str) -> list[Row]:
        """The runs that carry a word: one, if all is well."""
        return self._runs.get(word, [])

    def steps_of(self, run: Row) -> list[Row]:
        """A run's steps, in order."""
        return self._steps.get(run["id"], [])

    def messages_of(self, run: Row) -> list[Row]:
        """What a run has said, in order."""
        return self._messages.get(run["id"], [])

    @cached_property
    def calls_by_turn(self) -> dict[tuple[str, int], list[Call]]:
        """What the model was asked, in order, by run and turn."""
        found: dict[tuple[str, int], list[Call]] = defaultdict(list)
        for call in self.calls:
            found[call.word, call.turn].append(call)
        return dict(found)

    @cached_property
    def _runs(self) -> dict[str, list[Row]]:
        return _by("word", self.runs)

    @cached_property
    def _steps(self) -> dict[str, list[Row]]:
        return _by("run_id", self.steps)

    @cached_property
    def _messages(self) -> dict[str, list[Row]]:
        return _by("run_id", self.messages)


def _by(column: str, rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row[column]].append(row)
    return dict(found)


def text_of(message: Row) -> str:
    """What a message says."""
    return "".join(part["text"]["value"] for part in message["content"] if part["type"] == "text")


def ended_at(step: Row) -> int | None:
    """When a step was over, however."""
    return next((step[name] for name in TIMES if step[name] is not None), None)


async def gathered(
    cluster: Cluster, histories: Sequence[History], blows: Sequence[Blow], locked: Sequence[str]
) -> Facts:
    """The facts of a cluster on which nothing moves any more."""
    connection = await cluster.connect()
    try:
        runs, steps, messages = [
            [_row(record) for record in await connection.fetch(query)] for query in (RUNS, STEPS, MESSAGES)
        ]
    finally:
        await connection.close()
    calls = [call for request in cluster.model.requests() if (call := _call(request)) is not None]
    workers = cluster.workers
    seen = (claims(workers), silences(workers), attendance(workers))
    return Facts(runs, steps, messages, calls, list(histories), *seen, list(blows), list(locked))


def _row(record: Mapping[str, Any]) -> Row:
    return {
        name: json.loads(value) if name in ("usage", "content", "step_details") and isinstance(value, str) else value
        for name, value in record.items()
    }


def _call(request: Mapping[str, Any]) -> Call | None:
    messages = request["body"]["messages"]
    places = [place for place, message in enumerate(messages) if message["role"] == "user"]
    if not places:
        return None
    found = WORD.search(str(messages[places[-1]]["content"]))
    if found is None:
        return None
    turn = sum(message["role"] == "assistant" for message in messages[places[-1] :])
    return Call(found[1], turn, request["at"], request["delivered_at"])
