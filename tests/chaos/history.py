"""What one client saw of one run: every event of every connection, how each connection ended, what it was answered."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Literal

from orchestrator.events.frames import RESTING
from tests.api.checks import Event
from tests.chaos.plan import PlannedRun

End = Literal["done", "error", "broken", "refused", "silence"]
"""How a stream ended, or did not begin. `silence` is the one that must not be: an orderly end without a word."""


@dataclass
class History:
    """Written by `clients`, read by `invariants`.

    `closing` are the events without ids of the present connection: the outcome, from Postgres, where Redis had no more
    to tell. Who comes back hears it again, so it counts only where the stream ended in order: then it is in `outcomes`.
    """

    planned: PlannedRun
    thread_id: str = ""
    run_id: str = ""
    status: str = ""
    events: list[Event] = field(default_factory=list)
    closing: list[Event] = field(default_factory=list)
    outcomes: list[list[Event]] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    """What should never have been answered or heard."""

    @property
    def cursor(self) -> str | None:
        """The last id."""
        return self.events[-1].id if self.events else None

    def hear(self, event: Event) -> End | None:
        """Take an event; how the stream ends, if it is one of those that end it."""
        if event.name == "done":
            last = [*self.events, *self.closing][-1:]
            if not last or last[0].name not in RESTING:
                self.odd.append(f"done, but not at rest: {last}")
            self.outcomes.append([*self.events, *self.closing])
            return "done"
        if event.name == "error":
            return "error"
        (self.closing if event.id is None else self.events).append(event)
        return None

    def texts(self) -> dict[str, set[str]]:
        """What was heard of each message, by its deltas: whenever a stream had ended in order, and in all."""
        found: dict[str, set[str]] = defaultdict(set)
        for events in (*self.outcomes, self.events):
            for message_id, text in _said(events).items():
                found[message_id].add(text)
        return dict(found)


def _said(events: list[Event]) -> dict[str, str]:
    texts: dict[str, str] = defaultdict(str)
    for event in events:
        if event.name == "thread.message.delta":
            for part in event.data["delta"]["content"]:
                texts[event.data["id"]] += part["text"]["value"]
    return texts


def calls_of(run: dict[str, Any]) -> list[dict[str, Any]]:
    """The calls that a run waits for."""
    calls: list[dict[str, Any]] = run["required_action"]["submit_tool_outputs"]["tool_calls"]
    return calls
