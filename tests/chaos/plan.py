"""What a storm is made of, drawn from a seed: the same seed gives the same runs, the same blows, at the same times.

A conversation is a thread with one run, or with several that follow each other or wait for each other's end. Each run
has a word of its own, which stands in its user message, in the answer that the model is told to give, and in its
metadata: so what a client heard, what the model was asked and what is in the database can be laid side by side.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

Kind = Literal[
    "text",
    "polled",
    "long",
    "function",
    "parallel",
    "server tool",
    "retried",
    "cut off",
    "cancelled",
    "expiring",
    "abandoned",
    "follow-up",
    "enqueued",
]
What = Literal[
    "kill worker",
    "freeze worker",
    "term worker",
    "kill api",
    "term api",
    "valkey kept",
    "valkey killed",
    "valkey emptied",
    "postgres fast",
    "postgres immediate",
    "cut",
    "blackhole",
]
Way = Literal["stream", "poll"]

WEIGHTS: dict[Kind, int] = dict.fromkeys(get_args(Kind), 2) | {
    "text": 4,
    "function": 4,
    "server tool": 4,
    "parallel": 3,
}
OUTCOMES: dict[Kind, str] = {
    "cut off": "incomplete",
    "cancelled": "cancelled",
    "expiring": "expired",
    "abandoned": "requires_action",
}
"""How runs of a kind end; the others are completed."""
LINKS: dict[What, tuple[str, ...]] = {"cut": ("postgres", "valkey"), "blackhole": ("postgres", "valkey", "model")}
"""The lines that can be disturbed so. (A model that breaks off in the middle of an answer is meant to fail its run.)"""
CALL = "tool{place}=get_weather:{{}}"


@dataclass(frozen=True)
class PlannedRun:
    """One run: what is asked, and what must come of it."""

    word: str
    kind: Kind
    way: Way
    question: str
    text: str
    outcome: str = "completed"
    turns: int = 1


@dataclass(frozen=True)
class Conversation:
    """A thread: its runs are created one after the other's end or, if they are `enqueued`, at once."""

    at: float
    api: int
    runs: tuple[PlannedRun, ...]

    @property
    def enqueued(self) -> bool:
        """Whether they wait for each other in the queue."""
        return self.runs[0].kind == "enqueued"


@dataclass(frozen=True)
class Blow:
    """One thing that goes wrong. `target`: which of the workers, or of the APIs; `seconds`: for how long."""

    at: float
    what: What
    target: int = 0
    seconds: float = 0.0
    link: str = ""


@dataclass(frozen=True)
class Plan:
    """All of it."""

    seed: int
    seconds: float
    conversations: tuple[Conversation, ...]
    blows: tuple[Blow, ...]

    @property
    def runs(self) -> list[PlannedRun]:
        """All runs."""
        return [run for conversation in self.conversations for run in conversation.runs]


def drawn(seed: int, *, runs: int, seconds: float, pace: float, lease: float) -> Plan:
    """A storm of so many seconds over so many runs. A worker is lost every `pace` seconds."""
    chance = random.Random(seed)
    conversations: list[Conversation] = []
    number = 0
    while number < runs:
        kind = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        length = min(runs - number, {"follow-up": 2, "enqueued": 3}.get(kind, 1))
        planned = tuple(_run(chance, f"w{number + place:04}x", kind) for place in range(length))
        conversations.append(Conversation(chance.uniform(0, seconds), chance.randrange(8), planned))
        number += length
    conversations.sort(key=lambda conversation: conversation.at)
    return Plan(seed, seconds, tuple(conversations), tuple(_blows(chance, seconds, pace, lease)))


def _run(chance: random.Random, word: str, kind: Kind) -> PlannedRun:
    length, pace = chance.randint(4, 16), chance.uniform(0.02, 0.25)
    if kind == "long":
        length, pace = chance.randint(150, 400), 0.01
    if kind in ("cancelled", "expiring"):
        length, pace = 600, 0.1  # a minute: it does not end by itself before that
    text = " ".join([word, *(f"{chance.randrange(10_000)}" for _ in range(length))])
    said = f'[[text="{text}" delay={pace:.3f} first={chance.uniform(0, 0.6):.2f}{_manner(word, kind)}]]'
    calls = {"function": 1, "abandoned": 1, "parallel": 2}.get(kind, 0)
    asked = " ".join(CALL.format(place=place or "") for place in range(calls))
    before = f"[[{asked} delay=0.02]] " if calls else ""
    if kind == "server tool":
        before = "[[tool=no_such_tool:{}]] " * chance.randint(1, 3)
    way: Way = "poll" if kind in ("polled", "expiring") else chance.choice(("stream", "stream", "poll"))
    if kind in ("long", "text", "cancelled"):
        way = "stream"
    planned = PlannedRun(word, kind, way, f"{word}? {before}{said}", text, turns=before.count("[[") + 1)
    return replace(planned, outcome=OUTCOMES.get(kind, "completed"))


def _manner(word: str, kind: Kind) -> str:
    if kind == "retried":
        return f" fail=500 times=1 id={word}"
    return " finish=length" if kind == "cut off" else ""


def _blows(chance: random.Random, seconds: float, pace: float, lease: float) -> list[Blow]:
    """Workers all the time; the API now and then; Redis twice, Postgres once (twice in long ones); lines in between."""
    blows = [
        Blow(seconds * 0.3, chance.choice(("valkey kept", "valkey killed")), seconds=chance.uniform(0, 2)),
        Blow(seconds * 0.7, "valkey emptied", seconds=chance.uniform(0, 2)),
        Blow(seconds * 0.5, "postgres fast", seconds=chance.uniform(0, 2)),
    ]
    if seconds > 100:
        blows.append(Blow(seconds * 0.85, "postgres immediate", seconds=chance.uniform(0, 2)))
    for at in _times(chance, seconds, pace):
        how: What = chance.choices(("kill worker", "freeze worker", "term worker"), (6, 2, 2))[0]
        blows.append(Blow(at, how, chance.randrange(8), lease + 2.0 if how == "freeze worker" else 0.0))
    for at in _times(chance, seconds, pace * 3):
        api: What = chance.choice(("kill api", "term api"))
        blows.append(Blow(at, api, chance.randrange(8)))
    for at in _times(chance, seconds, pace * 2):
        line: What = chance.choice(("cut", "cut", "blackhole"))
        blows.append(Blow(at, line, chance.randrange(16), chance.uniform(1, lease), chance.choice(LINKS[line])))
    return sorted(blows, key=lambda blow: blow.at)


def _times(chance: random.Random, seconds: float, pace: float) -> Sequence[float]:
    found, at = [], chance.uniform(0.3, 1.0) * pace
    while at < seconds:
        found.append(at)
        at += chance.uniform(0.6, 1.4) * pace
    return found
