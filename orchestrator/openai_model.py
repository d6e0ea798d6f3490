"""The `Model` that any OpenAI-compatible endpoint is: streamed, and tried again while nobody has heard a word.

The official client would cost 5 to 20 times the CPU per token (bench/model_client.py), so only its vocabulary is used.
Open one per process (`async with OpenAIModel(settings) as model`) and share it: connections are kept alive.

What goes wrong, and what follows, is in `orchestrator.openai_errors`; what providers do differently, in
`orchestrator.openai_reply`. The log tells status, attempt and the upstream's request id; never the key, never content.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import orjson
import structlog

from orchestrator.errors import Unavailable
from orchestrator.foreign import Json
from orchestrator.model import Delta, Prompt
from orchestrator.openai_errors import UpstreamTrouble, request_id
from orchestrator.openai_http import BROKEN, Endpoint, Response
from orchestrator.openai_reply import Reply
from orchestrator.settings import Settings

log = structlog.get_logger(__name__)

MALFORMED = "malformed_arguments"
"""The key under which a model sees, in its own earlier calls, arguments of which it had made no JSON object."""

_STREAM = {"Accept": "text/event-stream"}
_FIRST_WAIT = 0.5
_LONGEST_BACKOFF = 8.0
_TAIL_WAIT = 5.0  # for usage and [DONE], once the reply itself is complete
_LONGEST_LIST = 8 * 1024 * 1024
_HUSH = 0.025
"""Seconds without a word after which it is told that the model has begun. What follows from that is not urgent, and
would hold up others that have yet to ask; and who speaks at once need not be announced.
"""


class OpenAIModel:
    """A `Model` behind `settings.upstream_base_url`. `pause` is how it waits between attempts; tests listen there."""

    def __init__(self, settings: Settings, *, pause: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._endpoint = Endpoint(settings)
        self._retries = settings.upstream_retries
        self._pause = pause

    async def __aenter__(self) -> "OpenAIModel":
        await self._endpoint.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._endpoint.close()

    async def stream(self, prompt: Prompt) -> AsyncGenerator[list[Delta], None]:
        """Ask, and hear the answer as it comes. Raises `RunFailure` when there will be none."""
        body, name, deadline, ear = _request_body(prompt), prompt.model, prompt.deadline, prompt.ear
        del prompt  # images may be in both, and the answer may take its time
        attempt = 1
        while True:
            reply = Reply(ear)
            try:
                response = await self._endpoint.post("/chat/completions", body, headers=_STREAM)
                try:
                    async with aclosing(_heard(response, reply)) as heard:
                        async for deltas in heard:
                            if deltas:
                                body = b""  # what was heard of is not asked again
                            yield deltas
                finally:
                    response.close()
                return
            except (UpstreamTrouble, *BROKEN) as error:
                wait = self._wait_after(error, reply, name, attempt, deadline)
            await self._pause(wait)
            attempt += 1

    def _wait_after(self, error: Exception, reply: Reply, model: str, attempt: int, deadline: float | None) -> float:
        """Seconds until the next attempt. Raises RunFailure if there is to be none."""
        trouble = error if isinstance(error, UpstreamTrouble) else UpstreamTrouble(type(error).__name__)
        trouble.request_id = trouble.request_id or reply.request_id
        given_up = reply.started or attempt > self._retries
        wait = None if given_up else _wait_before_next(trouble, attempt, deadline)
        _log_trouble(trouble, model, attempt, wait)
        if wait is None:
            raise trouble.failure(model, self._endpoint.hidden) from error
        return wait

    async def models(self) -> list[Json]:
        """The models on offer. Raises `Unavailable` when the upstream gives no list in reasonable time."""
        try:
            async with asyncio.timeout(2 * self._endpoint.connect_timeout):
                return _cards(await self._endpoint.fetch("/models", _LONGEST_LIST))
        except (UpstreamTrouble, *BROKEN) as trouble:
            log.warning("upstream_models_failed", error=type(trouble).__name__, status=getattr(trouble, "status", None))
            raise Unavailable("The model server does not answer.") from trouble

    async def retrieve(self, model_id: str) -> Json | None:
        """One of them, or None. It is looked up in the list: not every provider has the route for one."""
        return next((model for model in await self.models() if model["id"] == model_id), None)


async def _heard(response: Response, reply: Reply) -> AsyncGenerator[list[Delta], None]:
    """What an answer says whose head is here, as a stream of a `Model` does. Raises UpstreamTrouble, and BROKEN."""
    whole = told = response.content_type == "application/json"
    reply.begin(request_id(response.headers), whole=whole)
    hushed_at = asyncio.get_running_loop().time() + _HUSH
    last: list[Delta] = []
    while True:
        reading = asyncio.ensure_future(response.read(_TAIL_WAIT if reply.complete else None, reply.offered))
        try:
            if not (told or reply.started) and (told := await _lasts(reading, hushed_at)):
                yield []
            chunk = await reading
        finally:
            _drop(reading)
            del reading  # its exception's traceback holds this frame, and so all that was asked
        if not chunk:
            break
        deltas = reply.feed(chunk)
        if reply.done:
            last = deltas
            break
        if deltas:
            yield deltas
    last += reply.flush()
    if reply.done:
        await response.reach_end()
    yield [*last, reply.finish()]


async def _lasts(reading: "asyncio.Future[bytes]", until: float) -> bool:
    """Whether the next piece of an answer is not here at that time of the loop's clock."""
    left = until - asyncio.get_running_loop().time()
    return not (reading.done() or (left > 0 and (await asyncio.wait((reading,), timeout=left))[0]))


def _drop(reading: "asyncio.Future[bytes]") -> None:
    """Nobody waits for that piece any more, however it ends."""
    if not reading.cancel() and not reading.cancelled():
        reading.exception()


def _request_body(prompt: Prompt) -> bytes:
    """Only what is set: many providers refuse nulls, or parameters that a model does not have."""
    body: dict[str, Json] = {
        "model": prompt.model,
        "messages": [_readable(message) for message in prompt.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if prompt.tools:
        body["tools"] = prompt.tools
    optional = {
        "tool_choice": prompt.tool_choice,
        "temperature": prompt.temperature,
        "top_p": prompt.top_p,
        "response_format": prompt.response_format,
        "parallel_tool_calls": prompt.parallel_tool_calls,
        "reasoning_effort": prompt.reasoning_effort,
        "max_completion_tokens": prompt.max_completion_tokens,
    }
    body |= {name: value for name, value in optional.items() if value is not None}
    return orjson.dumps(body)


def _readable(message: Json) -> Json:
    """The message, without arguments that are no JSON object: many servers parse them again and refuse the thread."""
    if not (calls := message.get("tool_calls")):
        return message
    return {**message, "tool_calls": [_with_object(call) for call in calls]}


def _with_object(call: Json) -> Json:
    arguments = call["function"]["arguments"]
    try:
        if isinstance(orjson.loads(arguments), dict):
            return call
    except orjson.JSONDecodeError:
        pass
    wrapped = orjson.dumps({MALFORMED: arguments}).decode()
    return {**call, "function": {**call["function"], "arguments": wrapped}}


def _cards(body: bytes) -> list[Json]:
    """The models of a list, with what every client expects of one. Some providers send the bare array."""
    try:
        found = orjson.loads(body)
        return [_card(model) for model in (found["data"] if isinstance(found, dict) else found)]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UpstreamTrouble("unreadable_list") from error


def _card(model: Json) -> Json:
    created, owner, end = model.get("created"), model.get("owned_by"), model.get("shutdown_date")
    return {
        **model,
        "id": str(model["id"]),
        "object": "model",
        "created": int(created) if isinstance(created, int | float) else 0,
        "owned_by": owner if isinstance(owner, str) else "unknown",
        "shutdown_date": end if isinstance(end, str) else None,
    }


def _wait_before_next(trouble: UpstreamTrouble, attempt: int, deadline: float | None) -> float | None:
    """Seconds until the next attempt, never the same for two runs that failed together; None if it is of no use.

    It is of no use after the run's end either: the run fails now, with the upstream's reason, and does not expire.
    """
    if not trouble.may_pass:
        return None
    backoff = min(_LONGEST_BACKOFF, _FIRST_WAIT * 2 ** (attempt - 1))
    wait = backoff if trouble.asked_wait is None else trouble.asked_wait
    wait *= random.uniform(1.0, 1.25)  # noqa: S311  # spreads load, guards nothing
    if deadline is not None and asyncio.get_running_loop().time() + wait >= deadline:
        return None
    return wait


def _log_trouble(trouble: UpstreamTrouble, model: str, attempt: int, wait: float | None) -> None:
    retry_in = None if wait is None else round(wait, 3)
    log.warning("upstream_failed", **trouble.facts(model), model=model, attempt=attempt, retry_in=retry_in)
