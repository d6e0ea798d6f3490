"""How soon a client that polls should ask again: the header that the official clients' pollers obey.

A tenth of what has already been waited, within bounds: short tasks are seen to end at once, long ones cost little. The
Python client keeps to the first value that it hears (so it is the lower bound that counts there), the Node client reads
each one.
"""

import time

from orchestrator.foreign import Json
from orchestrator.settings import Settings

HEADER = "openai-poll-after-ms"


MOVING = frozenset({"queued", "in_progress", "cancelling"})


def advice(run: Json, settings: Settings) -> dict[str, str] | None:
    """The header for an answer that shows this run (the wire's object); None if it does not move by itself."""
    if run["status"] not in MOVING:
        return None
    return poll_after(max(run["created_at"], run["started_at"] or 0), settings)


def poll_after(since: int, settings: Settings) -> dict[str, str]:
    """The header for an answer about something that has been under way since then (unix seconds), and still is."""
    tenth = (time.time() - since) / 10
    seconds = min(max(tenth, settings.poll_shortest), max(settings.poll_longest, settings.poll_shortest))
    return {HEADER: str(round(seconds * 1000))}
