"""What a run has done and spent, and whether it may take one more step. `own` is what it has said and called so far."""

from collections.abc import Sequence
from typing import Final

from orchestrator.errors import OutOfTokens, RunFailure
from orchestrator.foreign import Json
from orchestrator.model import Usage
from orchestrator.tables import Message, Run, RunStep
from orchestrator.tables.records import is_step
from orchestrator.wire import objects

TURNS: Final = 200
"""Turns with tool calls after which a run fails: no loop without an end."""

Own = Sequence[Message | RunStep]


def turns(own: Own) -> list[RunStep]:
    """The turns with tool calls: all that cost anything so far."""
    return [item for item in own if is_step(item)]


def used(own: Own, *more: Json) -> Json:
    """What the turns have cost, and `more`."""
    return objects.usage_sum([*(step.usage for step in turns(own)), *more])


def total(run: Run, own: Own, last: Json) -> Json | None:
    """What the run has cost in all, its `last` turn included; None if an earlier attempt may have spent what only its
    steps know.
    """
    if run.attempt > 1:
        return None
    return used(own, last) if own else last


def spent(run: Run, own: Own, last: Usage | None = None) -> OutOfTokens | RunFailure | None:
    """What must end the run before its next step, if something must; `last` is the cost of one more turn."""
    if len(turns(own)) + (last is not None) > TURNS:
        return RunFailure("server_error", f"The run was ended after {TURNS} turns with tool calls.")
    if run.max_completion_tokens is None and run.max_prompt_tokens is None:
        return None
    cost = used(own, None if last is None else objects.usage(last))
    if run.max_completion_tokens is not None and cost["completion_tokens"] >= run.max_completion_tokens:
        return OutOfTokens("max_completion_tokens")
    if run.max_prompt_tokens is not None and cost["prompt_tokens"] >= run.max_prompt_tokens:
        return OutOfTokens("max_prompt_tokens")
    return None
