"""What must hold whatever happens: of rows before and after a step, of what was told, and of a world at rest."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import orjson

from orchestrator.events.frames import Cursor, Frame
from orchestrator.lifecycle import FROM

OVER = ("completed", "incomplete", "failed", "cancelled", "expired")
NEXT: dict[str, set[str]] = {
    "queued": {"in_progress", "cancelling", "cancelled", "failed", "expired"},
    "in_progress": {"requires_action", "cancelling", *OVER},
    "requires_action": {"queued", "cancelling", "cancelled", "expired"},
    "cancelling": {"cancelled", "expired"},
}
"""What may follow a status within one transaction: `cancelling` and `cancelled` may come together."""
BOOKKEEPING = {"wake_at", "lease_until", "owner"}

Row = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """All that Postgres knows of a thread's runs."""

    runs: list[Row]
    steps: list[Row]
    messages: list[Row]
    attempts: list[Row]

    def run(self, run_id: str) -> Row | None:
        """One of the runs."""
        return next((run for run in self.runs if run["id"] == run_id), None)

    def of(self, run: Row) -> list[Row]:
        """The steps of a run."""
        return [step for step in self.steps if step["run_id"] == run["id"]]


def check_step(before: Rows, after: Rows) -> None:
    """One transaction has happened."""
    for old in before.runs:
        new = after.run(old["id"])
        if new is None:
            assert not after.runs, "a run is gone and its thread is not"
            continue
        assert new["attempt"] >= old["attempt"]
        if old["status"] in OVER:
            assert new == old, f"a run that was over has changed: {old} → {new}"
        elif new["status"] != old["status"]:
            assert new["status"] in NEXT[old["status"]], f"{old['status']} → {new['status']}"
    for old in [*before.steps, *before.messages]:
        new = next((row for row in [*after.steps, *after.messages] if row["id"] == old["id"]), None)
        if new is not None and old["status"] not in (None, "in_progress"):
            assert new == old, f"what was closed has changed: {old} → {new}"
    check_rows(after)


def check_rows(rows: Rows) -> None:
    """At any time."""
    owning = [run["id"] for run in rows.runs if run["status"] not in OVER and not run["waiting"]]
    assert len(owning) <= 1, f"{owning} own the thread"
    for run in rows.runs:
        steps = rows.of(run)
        opened = [step for step in steps if step["status"] == "in_progress"]
        assert len(opened) <= 1, f"{opened} are open at once"
        said = [each for each in rows.messages if each["run_id"] == run["id"] and each["status"] == "in_progress"]
        assert len(said) <= 1
        if run["status"] in OVER:
            assert not opened, f"{run['status']} with {opened}"
            assert not said, f"{run['status']} with {said}"
            assert run["owner"] is run["lease_until"] is run["required_action"] is None
            assert run["usage"] == total(steps) if steps else run["usage"] in (None, total([])), run
        else:
            assert run["usage"] is None
        if run["status"] in ("queued", "requires_action"):
            assert run["owner"] is None
            assert not said
        check_action(run, opened)
        carried = [each for each in rows.attempts if each["run_id"] == run["id"] and each["ended_at"] is None]
        assert len(carried) == (run["owner"] is not None), f"{carried} are said to be at a run of {run['owner']}"


def check_action(run: Row, opened: list[Row]) -> None:
    """A run waits for exactly the calls that are unanswered, and says so."""
    if run["status"] != "requires_action":
        assert run["required_action"] is None or run["status"] == "cancelling"
        return
    (step,) = opened
    unanswered = [call["id"] for call in step["step_details"]["tool_calls"] if call["function"]["output"] is None]
    asked = [call["id"] for call in run["required_action"]["submit_tool_outputs"]["tool_calls"]]
    assert asked == unanswered
    assert asked


def total(steps: Sequence[Row]) -> Row:
    """The usage of a run with these steps."""
    parts = [step["usage"] for step in steps if step["usage"]]

    def added(name: str) -> int:
        return sum(int(part[name]) for part in parts)

    return {
        **{name: added(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")},
        "prompt_token_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def heard(told: Sequence[Frame], run_id: str) -> list[tuple[Cursor, str, Row]]:
    """What a listener hears of a run: a stream refuses what is older than its last entry."""
    events: list[tuple[Cursor, str, Row]] = []
    for frame in told:
        if frame.run_id == run_id and (not events or frame.cursor > events[-1][0]):
            _, event, data = frame.data.decode().strip().split("\n")
            events.append((frame.cursor, event.removeprefix("event: "), orjson.loads(data.removeprefix("data: "))))
    return events


def check_numbers(told: Sequence[Frame], run_id: str) -> None:
    """Each attempt counts its events without gaps; what is told twice is the same both times."""
    by_attempt: dict[int, dict[int, bytes]] = {}
    for frame in (frame for frame in told if frame.run_id == run_id):
        known = by_attempt.setdefault(frame.cursor.attempt, {})
        if frame.cursor.seq in known:
            assert names(known[frame.cursor.seq]) == names(frame.data), f"two events are {frame.cursor}"
        else:
            assert frame.cursor.seq == len(known) + 1, f"{frame.cursor} follows {len(known)} events"
            known[frame.cursor.seq] = frame.data


def names(frame: bytes) -> bytes:
    """Id and event of a frame."""
    return frame[: frame.index(b"\ndata: ")]


def check_story(events: Sequence[tuple[Cursor, str, Row]]) -> None:
    """The events of a run follow each other as clients expect it: see scribe, closing and lifecycle."""
    status, step, message = "", None, None
    for (_, event, data), following in zip(events, [*events[1:], None], strict=True):
        noun, _, change = event.removeprefix("thread.").rpartition(".")
        if noun == "run":
            check_turn(status, change, step, message)
            status = change if change != "created" else ""
            assert change not in OVER or following is None, f"{following} comes after the end"
        elif noun == "run.step":
            step = check_part(step, change, data)
            assert message is None or change in ("created", "in_progress"), "a step ends before its message"
        else:
            assert step is not None or change == "incomplete", f"{event} outside of a step"
            message = check_part(message, change, data)


def check_turn(status: str, change: str, step: str | None, message: str | None) -> None:
    """A run may go from one status to the next, as it is told."""
    if change == "created":
        assert not status
    elif not status:
        assert change == "queued"
    else:
        assert change in NEXT[status], f"{status} → {change} was told"
        assert status in FROM[change], f"{status} → {change} was told"  # type: ignore[index]
    if change in OVER:
        assert step is message is None, f"{change} with {step}, {message}"
    if change == "requires_action":
        assert step is not None
    if change == "queued":
        assert step is None


def check_part(opened: str | None, change: str, data: Row) -> str | None:
    """A step, or a message, may do this next; returns which is open then."""
    if change == "created":
        assert opened is None, f"{data['id']} begins before {opened} has ended"
        return str(data["id"])
    assert data["id"] == opened, f"{change} of {data['id']}, and {opened} is open"
    return opened if change in ("in_progress", "delta") else None


def check_rest(rows: Rows, told: Sequence[Frame]) -> None:
    """Everybody has done what there was to do."""
    for run in rows.runs:
        assert run["status"] in (*OVER, "requires_action") or run["waiting"], f"stuck: {run}"
    waiting = [run for run in rows.runs if run["waiting"]]
    owning = [run for run in rows.runs if run["status"] == "requires_action"]
    assert owning or not waiting, f"{waiting} wait for nobody"
    for run in rows.runs:
        events = heard(told, run["id"])
        last = next(
            event for _, event, _ in reversed(events) if event.startswith("thread.run.") and "step" not in event
        )
        assert last == f"thread.run.{run['status']}", f"{last} was told last of a run that is {run['status']}"
        assert [event for _, event, _ in events].count("thread.run.created") == 1
    assert all(one["position"] < other["position"] for one, other in pairwise(rows.messages))
