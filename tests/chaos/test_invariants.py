"""The judge is judged: of a storm in which all was well, each rule is broken once, and it is that rule that speaks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.model import Usage
from orchestrator.wire import objects
from tests.api.checks import Event
from tests.chaos.facts import Call, Facts, Row
from tests.chaos.history import History
from tests.chaos.invariants import violations
from tests.chaos.plan import PlannedRun
from tests.chaos.slots import Life
from tests.chaos.traces import Claim, attended, claims, takeovers

PLANNED = PlannedRun("w0001x", "server tool", "stream", "w0001x? …", "w0001x 1 2", turns=2)
USAGE = objects.usage(Usage(prompt_tokens=1, completion_tokens=2))
SUM = objects.usage_sum([USAGE, USAGE])


def delta(seq: int, text: str) -> Event:
    part = {"index": 0, "type": "text", "text": {"value": text}}
    return Event("thread.message.delta", {"id": "msg_1", "delta": {"content": [part]}}, f"1-{seq}")


def step(number: int, kind: str, at: int) -> Row:
    ends: Row = dict.fromkeys(("failed_at", "cancelled_at", "expired_at"))
    known = {"id": f"step_{number}", "run_id": "run_1", "type": kind, "status": "completed", "usage": USAGE}
    return {**known, **ends, "created_at": at, "completed_at": at + 1, "written_at": at + 1.5}


@pytest.fixture
def facts() -> Facts:
    """A run of two turns, as it should be."""
    run: Row = {"id": "run_1", "thread_id": "thread_1", "word": "w0001x", "status": "completed", "owner": None}
    run |= {"waiting": False, "created_at": 100, "started_at": 100, "usage": SUM}
    said: Row = {"id": "msg_1", "run_id": "run_1", "status": "completed"}
    said["content"] = [{"type": "text", "text": {"value": PLANNED.text}}]
    heard = [delta(1, "w0001x"), delta(2, " 1 2"), Event("thread.run.completed", {}, "1-3")]
    history = History(PLANNED, "thread_1", "run_1", "completed", heard, ends=["broken", "done"])
    steps = [step(1, "tool_calls", 100), step(2, "message_creation", 102)]
    calls = [Call("w0001x", 0, 100.1, 100.9), Call("w0001x", 1, 102.1, 102.9)]
    return Facts([run], steps, [said], calls, [history])


def test_nothing_is_wrong_where_all_is_well(facts: Facts) -> None:
    assert violations(facts) == []


def first(rows: list[Row], **changed: object) -> list[Row]:
    return [{**rows[0], **changed}, *rows[1:]]


def seen(facts: Facts, **changed: object) -> Facts:
    return replace(facts, histories=[replace(facts.histories[0], **changed)])  # type: ignore[arg-type]


BROKEN: dict[str, Callable[[Facts], Facts]] = {
    "every_run_is_at_rest": lambda facts: replace(facts, runs=first(facts.runs, status="in_progress")),
    "no_thread_is_locked": lambda facts: replace(facts, locked=["thread_1"]),
    "nothing_is_left_open": lambda facts: replace(facts, messages=first(facts.messages, status="in_progress")),
    "steps_follow_each_other": lambda facts: replace(facts, steps=first(facts.steps, completed_at=103)),
    "runs_of_a_thread_follow_each_other": lambda facts: replace(
        facts, runs=[*facts.runs, {**facts.runs[0], "id": "run_2", "word": "other", "started_at": 101, "usage": None}]
    ),
    "usage_is_the_sum_of_the_steps": lambda facts: replace(facts, runs=first(facts.runs, usage=USAGE)),
    "nothing_is_lost_or_doubled": lambda facts: replace(facts, runs=[*facts.runs, {**facts.runs[0], "id": "run_2"}]),
    "every_run_ends_as_planned": lambda facts: replace(facts, runs=first(facts.runs, status="failed")),
    "every_answer_is_whole": lambda facts: replace(facts, messages=[]),
    "finished_turns_are_asked_for_once": lambda facts: replace(
        facts, calls=[*facts.calls, Call("w0001x", 0, 102.5, None)]
    ),
    "delivered_answers_are_lost_with_their_worker_only": lambda facts: replace(
        facts, calls=[facts.calls[0], Call("w0001x", 0, 101.0, 101.1), *facts.calls[1:]]
    ),
    "every_turn_is_asked_for": lambda facts: replace(facts, calls=facts.calls[:1]),
    "no_client_sees_anything_odd": lambda facts: seen(facts, odd=["500: Sorry"]),
    "no_stream_ends_in_silence": lambda facts: seen(facts, ends=["silence", "done"]),
    "each_event_comes_once_and_in_order": lambda facts: seen(
        facts, events=[*facts.histories[0].events[:2], *facts.histories[0].events[1:]]
    ),
    "deltas_are_the_text": lambda facts: seen(facts, events=facts.histories[0].events[1:]),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_violation_is_found(facts: Facts, rule: str) -> None:
    found = violations(BROKEN[rule](facts))

    assert rule in {sentence.partition(":")[0] for sentence in found}


def test_a_run_that_was_lost_is_taken_over_by_its_next_claim_and_no_other() -> None:
    victim = Life("worker-0", 0, Path("-"), losses=[(10.0, "kill")])
    heir = Life("worker-1", 0, Path("-"))
    found = [
        Claim("run_1", 1, 5.0, None, victim),
        Claim("run_1", 2, 11.5, 20.0, heir),
        Claim("run_2", 1, 5.0, 9.0, victim),  # was done before
        Claim("run_3", 1, 5.0, None, victim),  # was cancelled afterwards
    ]

    taken = {each.run_id: each.seconds for each in takeovers(found)}

    assert taken == {"run_1": 1.5, "run_3": None}


def test_claims_are_read_from_the_logs_of_all_lives(tmp_path: Path) -> None:
    log = tmp_path / "worker-0.0.log"
    common = '"timestamp": "2026-01-01T00:00:0%d.5Z", "run_id": "%s", "attempt": 1}\n'
    log.write_text(
        '{"event": "run_claimed", '
        + common % (1, "run_1")
        + "Traceback of somebody else\n"
        + '{"event": "run_claimed", '
        + common % (2, "run_2")
        + '{"event": "run_completed", '
        + common % (3, "run_1")
        + '{"event": "run_com'
    )
    slot = type("Slot", (), {"lives": [Life("worker-0", 0, log)]})()

    found = claims([slot])

    assert [(claim.run_id, claim.until is None) for claim in found] == [("run_1", False), ("run_2", True)]
    assert found[0].until == found[0].at + 2


def test_what_counts_of_a_recovery_is_the_time_in_which_any_worker_was_there() -> None:
    there = [(12.0, 14.0), (13.0, 15.0), (18.0, 30.0), (1.0, 9.0)]

    assert attended(10.0, 20.0, there) == 5.0
    assert attended(10.0, 11.0, there) == 0.0
