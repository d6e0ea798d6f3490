"""The messages of a run's next question: as much of the thread as there is room for, and all that the run has done.

    room = min(context window − the answer's share, what is left of max_prompt_tokens)

The answer's share is what is left of `max_completion_tokens`, though never more than half of the window; without that
limit it is 4,096 tokens, or a quarter of small windows. If even the least does not fit, the two bounds differ: a budget
that is spent ends the run as incomplete; a window is the model server's to judge, which counts better than we do.
"""

from dataclasses import replace

from orchestrator import tokens
from orchestrator.errors import OutOfTokens
from orchestrator.execution import conversation
from orchestrator.execution.past import Past
from orchestrator.execution.reply import Reply
from orchestrator.execution.truncation import newest_message
from orchestrator.foreign import Json
from orchestrator.model import Finished, Prompt, Usage
from orchestrator.tables import Message, Run, RunStep

ANSWER = 4096
"""Tokens that are left to an answer for which nobody has set a limit."""


def whole(
    run: Run, past: Past, own: list[Message | RunStep], offers: list[Json], *, window: int, used: Json
) -> list[Json] | None:
    """The messages to send if all that may be told is known and has room, as mostly it has; see `compose`."""
    if (least := past.bound) is None:
        return None
    system, done = _fixed(run, own)
    least += tokens.bound_offers(*offers, _schema(run.response_format)) + tokens.REPLY
    least += sum(map(tokens.bound, system)) + sum(map(tokens.bound, done))
    if least > _least_room(run, window, used):
        return None
    return [*system, *conversation.tell(past.all()), *done]


async def compose(
    run: Run, past: Past, own: list[Message | RunStep], offers: list[Json], *, window: int, used: Json
) -> list[Json]:
    """The messages to send. Raises OutOfTokens when the budget does not even allow for what must be told.

    `used` is the run's usage so far.
    """
    if (messages := whole(run, past, own, offers, window=window, used=used)) is not None:
        return messages
    system, done = _fixed(run, own)
    offered = await tokens.measure_offers(run.model, *offers, _schema(run.response_format))
    needed = sum(await tokens.measure(run.model, [*system, *done])) + offered + tokens.REPLY
    kept = await past.within(_least_room(run, window, used) - needed)
    newest = newest_message(kept)
    must = needed + (0 if newest is None else kept[newest].size or 0)
    budget = _budget(run, used)
    if budget is not None and must > budget:
        raise OutOfTokens("max_prompt_tokens")
    return [*system, *conversation.tell(kept), *done]


def question(
    run: Run, messages: list[Json], offers: list[Json], *, called: bool, used: Json, deadline: float
) -> Prompt:
    """The run's next question; `called` says whether the model has called tools before.

    A forced tool choice holds for the first turn only: it would never let the run end. 1.0, which every assistant
    has that says nothing, leaves temperature and top_p to the model server: some models refuse to be told.
    """
    choice = run.tool_choice if run.tool_choice == "none" or not called else "auto"
    budget = run.max_completion_tokens
    return Prompt(
        model=run.model,
        messages=messages,
        tools=offers,
        tool_choice=choice if offers and choice != "auto" else None,
        temperature=run.temperature if run.temperature != 1.0 else None,
        top_p=run.top_p if run.top_p != 1.0 else None,
        response_format=run.response_format if run.response_format != "auto" else None,
        parallel_tool_calls=False if offers and not run.parallel_tool_calls else None,
        reasoning_effort=run.reasoning_effort,
        max_completion_tokens=None if budget is None else budget - used["completion_tokens"],
        deadline=deadline,
    )


async def counted(prompt: Prompt, reply: Reply, finished: Finished) -> Finished:
    """`finished` with its usage, counted here if the model server did not tell: budgets live on it."""
    if finished.usage.total_tokens:
        return finished
    return replace(finished, usage=await _estimate(prompt, reply))


async def _estimate(prompt: Prompt, reply: Reply) -> Usage:
    """What a turn has cost: our count of what was sent and of what was heard."""
    calls = [{"function": {"name": call.name, "arguments": "".join(call.arguments)}} for call in reply.calls]
    said = {"content": "".join([*reply.text, *reply.refusal]), "tool_calls": calls}
    *asked, answered, around = await tokens.measure(prompt.model, [*prompt.messages, said, {}])
    offered = await tokens.measure_offers(prompt.model, *prompt.tools, _schema(prompt.response_format))
    return Usage(sum(asked) + offered + tokens.REPLY, answered - around)


def _schema(response_format: Json) -> Json | None:
    """What the model is told of the format of its answer."""
    return response_format if isinstance(response_format, dict) else None


def _fixed(run: Run, own: list[Message | RunStep]) -> tuple[list[Json], list[Json]]:
    """What is told in any case: before the thread, and behind it."""
    done = conversation.tell(conversation.units(conversation.told(own))) if own else []
    return conversation.system(run), done


def _budget(run: Run, used: Json) -> int | None:
    """The tokens of prompts that the run may still spend."""
    return None if run.max_prompt_tokens is None else run.max_prompt_tokens - used["prompt_tokens"]


def _least_room(run: Run, window: int, used: Json) -> int:
    """The tokens that the prompt may have."""
    room, budget = _room(run, window, used), _budget(run, used)
    return room if budget is None else min(room, budget)


def _room(run: Run, window: int, used: Json) -> int:
    """The tokens that the prompt may have for the window's sake; fewer where our count is an estimate."""
    share = min(ANSWER, window // 4)
    if run.max_completion_tokens is not None:
        share = min(run.max_completion_tokens - used["completion_tokens"], window // 2)
    _, exact = tokens.encoding(run.model)
    return int((window - share) / (1 if exact else tokens.MARGIN))
