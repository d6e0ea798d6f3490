"""Requests that are the model server's own business, passed on to it: chat completions and embeddings.

    the client's bytes ──▶ our key, our connection ──▶ upstream
    status, its advice to wait, the answer's bytes ◀── whole events, documents

Bodies go on as they came: parameters that we do not know are the upstream's to judge. Of the answer only what could
hurt is changed: errors are told in the original's envelope without the upstream's address and key, a stream that breaks
off ends with an error that clients raise, and embeddings come in the encoding that was asked for.

Nothing is tried again here: clients do that. The number of requests at once is bounded; leaving a block aborts its
request upstream at once.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

import orjson
import structlog

from orchestrator import openai_embeddings
from orchestrator.errors import ClientError, Relayed, Unavailable
from orchestrator.openai_errors import UpstreamTrouble, request_id
from orchestrator.openai_events import EventSplitter
from orchestrator.openai_http import BROKEN, Endpoint, Response, read
from orchestrator.settings import Settings

log = structlog.get_logger(__name__)

LARGEST_ANSWER: Final = 128 * 1024 * 1024
"""Bytes of a whole answer: 2,048 embeddings of 3,072 numbers are 75 million."""
KEEP_ALIVE: Final = b": keep-alive\n\n"
LOST: Final = "The model server broke off its answer."
AWAY: Final = "The model server does not answer."
FULL: Final = "Too many requests are being passed on to the model server. Please try again later."
REFUSED_US: Final = "The model server refuses this server. Its operator finds the reason in the log."
FAILED: Final = "The model server had an error while processing your request. You can retry your request."
UNCLEAR: Final = "The model server refused the request."


@dataclass(frozen=True, slots=True)
class Question:
    """A request to be passed on. `name` is ours for it, which the upstream may write into its own log."""

    raw: bytes
    model: str
    name: str
    streams: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer that has begun; `pieces` are whole events of a stream, or one whole document."""

    streams: bool
    headers: Mapping[str, str]
    pieces: AsyncGenerator[bytes, None]


class Gateway:
    """The way to the upstream for one API process."""

    def __init__(self, settings: Settings) -> None:
        self._endpoint = Endpoint(settings)
        self._patience = settings.gateway_timeout
        self._places = settings.gateway_concurrency
        self._taken = 0

    async def __aenter__(self) -> "Gateway":
        await self._endpoint.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._endpoint.close()

    @asynccontextmanager
    async def complete(self, question: Question) -> AsyncIterator[Answer]:
        """The answer to a chat completion. Raises Relayed or Unavailable."""
        with self._place(), self._refusals(question):
            async with self._asked("/chat/completions", question, question.raw) as response:
                headers = relayed_headers(response.headers)
                if response.content_type == "text/event-stream":
                    yield Answer(True, headers, self._events(question, response))
                else:
                    document = _document(await self._whole(response), b'"choices"')
                    yield Answer(False, headers, _once(document))

    @asynccontextmanager
    async def embed(self, question: Question, encoding: openai_embeddings.Encoding) -> AsyncIterator[Answer]:
        """The answer to a request for embeddings, in this encoding. Raises Relayed or Unavailable."""
        with self._place(), self._refusals(question):
            try:
                headers, document = await self._embedded(question, question.raw)
            except UpstreamTrouble as trouble:
                if encoding == "float" or not openai_embeddings.is_about_encoding(trouble):
                    raise
                headers, document = await self._embedded(question, openai_embeddings.without_encoding(question.raw))
            converted = await asyncio.to_thread(openai_embeddings.in_encoding, document, encoding)
            yield Answer(False, headers, _once(converted))

    async def _embedded(self, question: Question, body: bytes) -> tuple[Mapping[str, str], bytes]:
        async with self._asked("/embeddings", question, body) as response:
            return relayed_headers(response.headers), _document(await self._whole(response), b'"data"')

    @asynccontextmanager
    async def _asked(self, path: str, question: Question, body: bytes) -> AsyncIterator[Response]:
        """The upstream's 200. What comes in one piece is silent until it is whole, so only the whole time counts."""
        accept = "text/event-stream" if question.streams else "application/json"
        headers = {"Accept": accept, "X-Client-Request-Id": question.name}
        patience = None if question.streams else self._patience
        async with self._endpoint.posted(path, body, headers=headers, patience=patience) as response:
            log.debug("gateway_answers", path=path, upstream_request_id=request_id(response.headers))
            yield response

    async def _whole(self, response: Response) -> bytes:
        try:
            async with asyncio.timeout(self._patience):
                return await read(response, LARGEST_ANSWER)
        except BROKEN as error:
            raise UpstreamTrouble(type(error).__name__, headers=response.headers) from error

    async def _events(self, question: Question, response: Response) -> AsyncGenerator[bytes, None]:
        """Whole events as soon as they are whole. Silence and the time for all of it are bounded."""
        try:
            async for events in _split(response, asyncio.get_running_loop().time() + self._patience):
                yield b"".join(map(self._frame, events)) if events else KEEP_ALIVE
        except (UpstreamTrouble, *BROKEN) as error:
            trouble = error if isinstance(error, UpstreamTrouble) else UpstreamTrouble(type(error).__name__)
            trouble.request_id = request_id(response.headers)
            _log(trouble, question)
            yield _sse(orjson.dumps(_error(LOST, "server_error")))

    def _frame(self, data: bytes) -> bytes:
        """An event as it came, unless it tells an error: that may quote the upstream's address or key."""
        if b'"error"' not in data:
            return _sse(data)
        try:
            error = orjson.loads(data).get("error")
        except (orjson.JSONDecodeError, AttributeError):
            return _sse(data)
        if not error:
            return _sse(data)
        trouble = UpstreamTrouble.from_event(error)
        said = trouble.said(self._endpoint.hidden) if (trouble.status or 500) < 500 else FAILED
        return _sse(orjson.dumps(_error(said, trouble.type or "server_error", trouble.param, trouble.code or None)))

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._taken >= self._places:
            raise Unavailable(FULL)
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    @contextmanager
    def _refusals(self, question: Question) -> Iterator[None]:
        try:
            yield
        except UpstreamTrouble as trouble:
            _log(trouble, question)
            raise refusal(trouble, question.model, self._endpoint.hidden) from trouble


def refusal(trouble: UpstreamTrouble, model: str, hidden: list[str]) -> ClientError:
    """The error that the client gets for it: the upstream's own, unless that speaks of matters that are not his."""
    status = trouble.status
    if status is None or status < 400:
        return Unavailable(AWAY)
    if status in (401, 403, 407):
        return Relayed(503, REFUSED_US, "server_error", headers={"x-should-retry": "false"})
    if status >= 500:
        return Relayed(status, FAILED, "server_error", headers=trouble.advice)
    if trouble.is_missing_model(model):
        message = f"The model '{model}' does not exist."
        return Relayed(404, message, "invalid_request_error", param="model", code="model_not_found")
    kind = trouble.type or "invalid_request_error"
    said, code = trouble.said(hidden) or UNCLEAR, trouble.code or None
    return Relayed(status, said, kind, param=trouble.param, code=code, headers=trouble.advice)


def relayed_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """What clients of these operations knew from the original: how much they may still ask for."""
    return {name.lower(): value for name, value in headers.items() if name.lower().startswith("x-ratelimit-")}


async def _split(response: Response, deadline: float) -> AsyncIterator[list[bytes]]:
    """The data of the events that came together; none for a comment. Ends behind [DONE], or with the response."""
    splitter = EventSplitter()
    while True:
        async with asyncio.timeout_at(deadline):
            chunk = await response.read()
        if not chunk:
            break
        events = splitter.feed(chunk)
        if events or chunk.lstrip().startswith(b":"):
            yield events
        if b"[DONE]" in events:
            await response.reach_end()
            return
    if rest := splitter.flush():
        yield rest


def _document(body: bytes, wanted: bytes) -> bytes:
    """The body, if it may be the answer. Some providers tell an error with 200. Raises UpstreamTrouble."""
    if wanted in body:
        return body
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise UpstreamTrouble("unreadable_reply") from error
    if isinstance(found, dict) and found.get("error"):
        raise UpstreamTrouble.from_event(found["error"])
    raise UpstreamTrouble("unreadable_reply")


async def _once(document: bytes) -> AsyncGenerator[bytes, None]:
    yield document


def _sse(data: bytes) -> bytes:
    return b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"


def _error(message: str, type_: str, param: str | None = None, code: str | None = None) -> dict[str, object]:
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


def _log(trouble: UpstreamTrouble, question: Question) -> None:
    log.warning("gateway_failed", **trouble.facts(question.model), model=question.model)
