"""What doctor's checks are given, and what they find."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from orchestrator.embedded.home import Home

Verdict = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """What one check found; `advice` says what to do when it failed."""

    verdict: Verdict
    text: str
    advice: str = ""


def ok(text: str) -> Finding:
    """The part works."""
    return Finding("ok", text)


def failed(text: str, advice: str) -> Finding:
    """The part does not work; this is what to do."""
    return Finding("failed", text, advice)


def skipped(text: str) -> Finding:
    """There is nothing to check."""
    return Finding("skipped", text)


@dataclass(frozen=True)
class Patient:
    """Where the parts are: those of the running stack, or those that the environment names (the variables `given`)."""

    home: Home
    start: str
    api_url: str
    database_url: str
    redis_url: str
    upstream_url: str
    upstream_key: str
    given: frozenset[str] = frozenset()
    storage_url: str = ""

    def look(self, service: str, variable: str) -> str:
        """Where to look when a service does not work: at its address if it is not ours, else at its log."""
        if variable in self.given:
            return f"Check {variable}."
        return f"Look at {self.home.logs / service}.log."


Check = Callable[[Patient], Finding]
