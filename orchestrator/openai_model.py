"""The `Model` that any OpenAI-compatible endpoint is: streamed over aiohttp, tried again while nobody has heard a word.

The official client would cost 5 to 20 times the CPU per token (bench/model_client.py), so only its vocabulary is used.
Open one per process (`async with OpenAIModel(settings) as model`) and share it: connections are kept alive.

What goes wrong, and what follows, is in `orchestrator.openai_errors`; what providers do differently, in
`orchestrator.openai_reply`. The log tells status, attempt and the upstream's request id; never the key, never content.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from io import BytesIO
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
import structlog

from orchestrator.errors import Unavailable
from orchestrator.foreign import Json
from orchestrator.model import Delta, Prompt
from orchestrator.openai_errors import UpstreamTrouble
from orchestrator.openai_reply import Reply
from orchestrator.settings import Settings

log = structlog.get_logger(__name__)

_FIRST_WAIT = 0.5
_LONGEST_BACKOFF = 8.0
_TAIL_WAIT = 5.0  # for usage and [DONE], once the reply itself is complete
_END_WAIT = 0.25  # for the end of the response after [DONE], so that its connection can be used again
_LONGEST_ERROR = 64 * 1024
_LONGEST_LIST = 8 * 1024 * 1024
_LARGE_BODY = 1024 * 1024
_BROKEN = (aiohttp.ClientError, TimeoutError, OSError)


class OpenAIModel:
    """A `Model` behind `settings.upstream_base_url`.

    `pause` is how it waits between attempts; tests listen there. Proxies come from the environment, except for
    loopback: a proxy could not reach the model server on this machine.
    """

    def __init__(self, settings: Settings, *, pause: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._base = (settings.upstream_base_url or "").rstrip("/")
        self._retries = settings.upstream_retries
        self._connect_timeout = settings.upstream_connect_timeout
        self._read_timeout = settings.upstream_read_timeout
        host = urlsplit(self._base).netloc
        self._hidden = [host] if "." in host or ":" in host else []  # a bare name may be a word of any sentence
        self._headers = {"User-Agent": "assistantd", "Accept-Encoding": "identity"}
        if settings.upstream_api_key is not None and (key := settings.upstream_api_key.get_secret_value()):
            self._headers["Authorization"] = f"Bearer {key}"
            self._hidden.append(key)
        self._pause = pause
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "OpenAIModel":
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Make the session that all requests share. Connections are made when they are needed."""
        self._session = aiohttp.ClientSession(
            # No limit here: the runs that a process carries are bounded, and each has one request at a time.
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, keepalive_timeout=30),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout, sock_read=self._read_timeout),
            proxy=_proxy_for(self._base),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close all connections; requests under way fail."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Delta, None]:
        """Ask, and hear the answer as it comes. Raises `RunFailure` when there will be none."""
        body = _request_body(prompt)
        attempt = 1
        while True:
            reply = Reply()
            try:
                async with self._answer(body) as response:
                    whole = response.content_type == "application/json"
                    reply.begin(response.headers.get("x-request-id"), whole=whole)
                    while not reply.done and (chunk := await _next_chunk(response, reply)):
                        for delta in reply.feed(chunk):
                            yield delta
                    for delta in reply.flush():
                        yield delta
                    if reply.done:
                        await _reach_end(response)
                    yield reply.finish()
                return
            except UpstreamTrouble as trouble:
                wait = None if reply.started or attempt > self._retries else _wait_before_next(trouble, attempt)
                _log_trouble(trouble, trouble.request_id or reply.request_id, prompt.model, attempt, wait)
                if wait is None:
                    raise trouble.failure(prompt.model, self._hidden) from trouble
            await self._pause(wait)
            attempt += 1

    async def models(self) -> list[Json]:
        """The models on offer. Raises `Unavailable` when the upstream gives no list in reasonable time."""
        try:
            async with asyncio.timeout(2 * self._connect_timeout):
                return await self._list_models()
        except (UpstreamTrouble, *_BROKEN) as trouble:
            log.warning("upstream_models_failed", error=type(trouble).__name__, status=getattr(trouble, "status", None))
            raise Unavailable("The model server does not answer.") from trouble

    async def retrieve(self, model_id: str) -> Json | None:
        """One of them, or None. It is looked up in the list: not every provider has the route for one."""
        return next((model for model in await self.models() if model["id"] == model_id), None)

    @asynccontextmanager
    async def _answer(self, body: bytes) -> AsyncIterator[aiohttp.ClientResponse]:
        """The successful response to `body`; on leaving, its connection is free if it was read to the end, else cut."""
        response = await self._post(body)
        try:
            if response.status != 200:
                raise UpstreamTrouble.from_answer(response.status, await _error_body(response), response.headers)
            yield response
        finally:
            response.close()

    async def _post(self, body: bytes) -> aiohttp.ClientResponse:
        try:
            async with asyncio.timeout(self._connect_timeout + self._read_timeout):  # sending has no timeout of its own
                return await self._opened().post(
                    f"{self._base}/chat/completions",
                    data=BytesIO(body) if len(body) > _LARGE_BODY else body,
                    headers={"Content-Type": "application/json", "Accept": "text/event-stream"},
                    allow_redirects=False,
                )
        except _BROKEN as error:
            raise UpstreamTrouble(type(error).__name__) from error

    async def _list_models(self) -> list[Json]:
        async with self._opened().get(f"{self._base}/models", allow_redirects=False) as response:
            if response.status != 200:
                raise UpstreamTrouble.from_answer(response.status, await _error_body(response), response.headers)
            body = await _read(response, _LONGEST_LIST)
        try:
            return [{**model, "id": str(model["id"])} for model in orjson.loads(body)["data"]]
        except (KeyError, TypeError, ValueError) as error:
            raise UpstreamTrouble("unreadable_list") from error

    def _opened(self) -> aiohttp.ClientSession:
        if not self._base:
            raise UpstreamTrouble("not_configured", headers={"x-should-retry": "false"})
        if self._session is None:
            raise RuntimeError("Open the model before it is asked: `async with OpenAIModel(settings) as model`.")
        return self._session


def _request_body(prompt: Prompt) -> bytes:
    """Only what is set: many providers refuse nulls, or parameters that a model does not have."""
    body: dict[str, Json] = {
        "model": prompt.model,
        "messages": prompt.messages,
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


async def _next_chunk(response: aiohttp.ClientResponse, reply: Reply) -> bytes:
    """What arrived, or nothing at the end. A reply that lacks only its usage may end badly, and must end soon."""
    try:
        if not reply.complete:
            return await response.content.readany()
        async with asyncio.timeout(_TAIL_WAIT):
            return await response.content.readany()
    except _BROKEN as error:
        if reply.complete:
            return b""
        raise UpstreamTrouble(type(error).__name__) from error


async def _reach_end(response: aiohttp.ClientResponse) -> None:
    """Read the end of a response of which [DONE] was seen, so that its connection can be used again."""
    try:
        async with asyncio.timeout(_END_WAIT):
            while not response.content.at_eof() and await response.content.readany():
                pass
    except _BROKEN:
        return  # the connection is cut instead


async def _error_body(response: aiohttp.ClientResponse) -> bytes:
    try:
        return await _read(response, _LONGEST_ERROR)
    except (UpstreamTrouble, *_BROKEN):
        return b""  # the status says enough


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    body = bytearray()
    while chunk := await response.content.readany():
        body += chunk
        if len(body) > limit:
            raise UpstreamTrouble("reply_too_large")
    return bytes(body)


def _wait_before_next(trouble: UpstreamTrouble, attempt: int) -> float | None:
    """Seconds until the next attempt, never the same for two runs that failed together; None if it is of no use."""
    if not trouble.may_pass:
        return None
    backoff = min(_LONGEST_BACKOFF, _FIRST_WAIT * 2 ** (attempt - 1))
    wait = backoff if trouble.asked_wait is None else trouble.asked_wait
    return wait * random.uniform(1.0, 1.25)  # noqa: S311  # spreads load, guards nothing


def _log_trouble(
    trouble: UpstreamTrouble, request_id: str | None, model: str, attempt: int, wait: float | None
) -> None:
    log.warning(
        "upstream_failed",
        reason=trouble.reason,
        status=trouble.status,
        code=trouble.code,
        type=trouble.type,
        upstream_request_id=request_id,
        model=model,
        attempt=attempt,
        retry_in=None if wait is None else round(wait, 3),
        hint=trouble.hint(model),
    )


def _proxy_for(base: str) -> str | None:
    """The proxy that the environment names for the upstream; none for loopback, which no proxy could reach for us."""
    parts = urlsplit(base)
    host = parts.hostname or ""
    proxy = getproxies().get(parts.scheme)
    if not proxy or host == "localhost" or host.startswith("127.") or host == "::1" or proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
