"""What one client saw of one run: every event of every connection, how each connection ended, what it was answered."""

from dataclasses import dataclass, field
from typing import Any, Literal

from orchestrator.events.frames import RESTING
from tests.api.checks import Event
from tests.chaos.plan import PlannedRun

End = Literal["done", "error", "broken", "silence"]
"""How a stream ended. `silence` is the one that must not be: an orderly end without a word."""


@dataclass
class History:
    """Written by `clients`, read by `invariants`."""

    planned: PlannedRun
    thread_id: str = ""
    run_id: str = ""
    status: str = ""
    events: list[Event] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    """What should never have been answered or heard."""

    @property
    def cursor(self) -> str | None:
        """The id of the last event."""
        return self.events[-1].id if self.events else None

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The calls of the last `requires_action` that was heard."""
        for event in reversed(self.events):
            if event.name == "thread.run.requires_action":
                return calls_of(event.data)
        return []

    @property
    def rests(self) -> bool:
        """Whether the last event says that the run is at rest."""
        return bool(self.events) and self.events[-1].name in RESTING

    def hear(self, event: Event) -> End | None:
        """Take an event; how the stream ends, if it is one of those that end it."""
        if event.name == "done":
            if not self.rests:
                self.odd.append(f"done, but not at rest: {self.events[-1].name if self.events else 'nothing'}")
            return "done"
        if event.name == "error":
            return "error"
        self.events.append(event)
        return None


def calls_of(run: dict[str, Any]) -> list[dict[str, Any]]:
    """The calls that a run waits for."""
    calls: list[dict[str, Any]] = run["required_action"]["submit_tool_outputs"]["tool_calls"]
    return calls
