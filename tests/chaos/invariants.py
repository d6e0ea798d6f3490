"""What must be true when a storm is over, whatever it was. Each rule yields a sentence for each thing that is wrong."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise

from orchestrator.wire import objects
from tests.api.checks import Event
from tests.chaos.facts import Call, Facts, Row, ended_at, text_of

RESTING = ("completed", "incomplete", "failed", "cancelled", "expired", "requires_action")
HASTE = 10.0
"""Seconds within which a worker writes down an answer that it has heard to its end, however busy the machine is."""
SILENCE = 15.0
"""Longer than leases in storms: what was heard in the last of one may be lost with it."""
LOSING = ("valkey killed", "valkey emptied")

Rule = Callable[[Facts], Iterator[str]]


def violations(facts: Facts) -> list[str]:
    """All that is wrong."""
    return [f"{rule.__name__}: {sentence}" for rule in RULES for sentence in rule(facts)]


def every_run_is_at_rest(facts: Facts) -> Iterator[str]:
    for run in facts.runs:
        if run["status"] not in RESTING or run["waiting"] or run["owner"] is not None:
            yield f"{run['word']} {run['id']} is {run['status']}, owner {run['owner']}, waiting {run['waiting']}"


def no_thread_is_locked(facts: Facts) -> Iterator[str]:
    for thread_id in facts.locked:
        yield f"{thread_id} takes no message"


def nothing_is_left_open(facts: Facts) -> Iterator[str]:
    waiting = {run["id"] for run in facts.runs if run["status"] == "requires_action"}
    for row in (*facts.messages, *facts.steps):
        calls = row.get("type") == "tool_calls" and row["run_id"] in waiting
        if row["status"] == "in_progress" and not calls:
            yield f"{row['id']} of {row['run_id']} is in progress"


def steps_follow_each_other(facts: Facts) -> Iterator[str]:
    for run in facts.runs:
        for step, following in pairwise(facts.steps_of(run)):
            end = ended_at(step)
            if end is None or end > following["created_at"]:
                yield f"{run['word']}: {following['id']} began {following['created_at']}, {step['id']} ended {end}"


def runs_of_a_thread_follow_each_other(facts: Facts) -> Iterator[str]:
    threads: dict[str, list[Row]] = defaultdict(list)
    for run in facts.runs:
        threads[run["thread_id"]].append(run)
    for runs in threads.values():
        for run, following in pairwise(runs):
            end = max((ended_at(step) or 0 for step in facts.steps_of(run)), default=0)
            if following["started_at"] is not None and following["started_at"] < end:
                yield f"{following['word']} began at {following['started_at']}, {run['word']} ended at {end}"


def usage_is_the_sum_of_the_steps(facts: Facts) -> Iterator[str]:
    for run in facts.runs:
        steps = [step["usage"] for step in facts.steps_of(run)]
        if run["status"] == "requires_action":
            continue
        if run["usage"] != (objects.usage_sum(steps) if steps else None):
            yield f"{run['word']}: {run['usage']} is not the sum of {steps}"


def nothing_is_lost_or_doubled(facts: Facts) -> Iterator[str]:
    for history in facts.histories:
        found = facts.of_word(history.planned.word)
        if len(found) != 1 or found[0]["id"] != history.run_id:
            yield f"{history.planned.word}: the client knows {history.run_id}, there are {[run['id'] for run in found]}"


def every_run_ends_as_planned(facts: Facts) -> Iterator[str]:
    for history in facts.histories:
        for run in facts.of_word(history.planned.word):
            if run["status"] != history.planned.outcome or history.status != run["status"]:
                yield f"{run['word']} ({history.planned.kind}) is {run['status']}, the client saw {history.status!r}"


def every_answer_is_whole(facts: Facts) -> Iterator[str]:
    for history in facts.histories:
        for run in facts.of_word(history.planned.word):
            said = [(message["status"], text_of(message)) for message in facts.messages_of(run)]
            whole = [text for status, text in said if status == "completed"]
            if run["status"] == "completed" and whole != [history.planned.text]:
                yield f"{run['word']} has said {said}"
            for _, text in said:
                if not history.planned.text.startswith(text):
                    yield f"{run['word']} has said {text!r}, which nobody told it to"


def finished_turns_are_asked_for_once(facts: Facts) -> Iterator[str]:
    for call in duplicates(facts):
        yield f"{call.word} was asked for turn {call.turn} at {call.at:.3f}, after it had been written down"


def delivered_answers_are_lost_with_their_worker_only(facts: Facts) -> Iterator[str]:
    runs = {run["word"]: run["id"] for run in facts.runs}
    for call in asked_again(facts):
        if not _excused(facts, runs.get(call.word, ""), call):
            yield f"{call.word} was told turn {call.turn} at {call.delivered_at}, and asked for it again"


def every_turn_is_asked_for(facts: Facts) -> Iterator[str]:
    asked = facts.calls_by_turn
    for history in facts.histories:
        missing = [turn for turn in range(history.planned.turns) if (history.planned.word, turn) not in asked]
        if history.status == "completed" and missing:
            yield f"{history.planned.word} is completed, and turns {missing} were never asked for"


def no_client_sees_anything_odd(facts: Facts) -> Iterator[str]:
    for history in facts.histories:
        yield from (f"{history.planned.word}: {sentence}" for sentence in history.odd)


def no_stream_ends_in_silence(facts: Facts) -> Iterator[str]:
    for history in facts.histories:
        if "silence" in history.ends:
            yield f"{history.planned.word}: {history.ends}"


def each_event_comes_once_and_in_order(facts: Facts) -> Iterator[str]:
    for history in facts.histories:
        cursors = [_cursor(event) for event in history.events]
        for before, after in pairwise(cursors):
            if after <= before:
                yield f"{history.planned.word}: {after} came after {before}"


def deltas_are_the_text(facts: Facts) -> Iterator[str]:
    """Where Redis lost what it had, or a worker died before it had told all, a client may miss the end of a text; never
    a part in the middle.
    """
    texts = {message["id"]: (message["status"], text_of(message)) for message in facts.messages}
    for history in facts.histories:
        spared = all(_spared(facts, run) for run in facts.of_word(history.planned.word))
        for message_id, heard in history.texts().items():
            status, text = texts.get(message_id, ("unknown", ""))
            if not all(history.planned.text.startswith(each) for each in heard):
                yield f"{history.planned.word}: {message_id} was heard with a hole: {heard!r}"
            elif status == "completed" and text not in heard and spared:
                yield f"{history.planned.word}: {heard!r} was heard of {text!r}"


def duplicates(facts: Facts) -> list[Call]:
    """Calls for a turn that was in the database already, or that a later turn had been built on.

    Not those of a worker that was about to ask when it was frozen: nobody can keep it from finishing its sentence.
    """
    runs = {run["word"]: run["id"] for run in facts.runs}
    written = _written(facts)
    found = []
    for (word, turn), calls in facts.calls_by_turn.items():
        at = written.get((word, turn))
        late = [call for call in calls if at is not None and call.at > at]
        found += [call for call in late if not _thawed(facts, runs.get(word, ""), call)]
    return found


def asked_again(facts: Facts) -> list[Call]:
    """Calls whose answer got through to its end, and was asked for again."""
    return [
        call
        for calls in facts.calls_by_turn.values()
        for place, call in enumerate(calls)
        if call.delivered_at is not None and place < len(calls) - 1
    ]


def _written(facts: Facts) -> dict[tuple[str, int], float]:
    """When the turns of each run were known to be written down."""
    found: dict[tuple[str, int], float] = {}
    for (word, turn), calls in facts.calls_by_turn.items():
        if turn:
            found[word, turn - 1] = calls[0].at
    for run in facts.runs:
        done = [step for step in facts.steps_of(run) if step["status"] == "completed"]
        for turn, step in enumerate(done):
            if step["written_at"] is not None:
                found.setdefault((run["word"], turn), step["written_at"])
    return found


def _thawed(facts: Facts, run_id: str, call: Call) -> bool:
    """Whether a worker that had the run has just been let go on after a freeze."""
    frozen = [blow for blow in facts.blows if blow.what == "freeze worker"]
    thaws = [blow.at + blow.seconds for blow in frozen]
    mine = [claim for claim in facts.claims if claim.run_id == run_id]
    had = any(how == "freeze" and claim.held_at(at) for claim in mine for at, how in claim.life.losses)
    return had and any(at - 1 <= call.at <= at + 1 for at in thaws)


def _spared(facts: Facts, run: Row) -> bool:
    """Whether all that was told of a run was surely heard by Redis, and kept there."""
    if any(blow.what in LOSING and blow.at >= run["created_at"] - 1 for blow in facts.blows):
        return False
    return not any(
        how == "kill" and claim.at <= at <= (claim.until or at) + HASTE
        for claim in facts.claims
        if claim.run_id == run["id"]
        for at, how in claim.life.losses
    )


def _excused(facts: Facts, run_id: str, call: Call) -> bool:
    """Whether something happened, just then, to the worker that heard the answer, to Postgres, or on a line."""
    told = call.delivered_at or 0.0
    mine = [claim for claim in facts.claims if claim.run_id == run_id and claim.at <= call.at + HASTE]
    if any(told >= at - HASTE for claim in mine for at, _ in claim.life.losses):
        return True
    if any(told >= silence.at - SILENCE for silence in facts.silences if silence.run_id == run_id):
        return True
    lines = [blow for blow in facts.blows if blow.what.startswith("postgres") or blow.link in ("postgres", "model")]
    return any(blow.at - HASTE <= told <= blow.at + blow.seconds + 5 * HASTE for blow in lines)


def _cursor(event: Event) -> tuple[int, int]:
    attempt, _, seq = (event.id or "0-0").partition("-")
    return int(attempt), int(seq)


def outcomes(facts: Facts) -> Counter[str]:
    """How many runs ended how."""
    return Counter(run["status"] for run in facts.runs)


RULES: tuple[Rule, ...] = (
    every_run_is_at_rest,
    no_thread_is_locked,
    nothing_is_left_open,
    steps_follow_each_other,
    runs_of_a_thread_follow_each_other,
    usage_is_the_sum_of_the_steps,
    nothing_is_lost_or_doubled,
    every_run_ends_as_planned,
    every_answer_is_whole,
    finished_turns_are_asked_for_once,
    delivered_answers_are_lost_with_their_worker_only,
    every_turn_is_asked_for,
    no_client_sees_anything_odd,
    no_stream_ends_in_silence,
    each_event_comes_once_and_in_order,
    deltas_are_the_text,
)
