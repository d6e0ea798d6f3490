"""The HTTP server in front of the model: OpenAI's chat completions on loopback, for this machine's processes only.

It answers as many requests at once as the model has slots; some more wait in line, further ones get 429 with
Retry-After. A client that goes away frees its slot. There are no keys: nobody but this machine can reach it, and
requests of web pages are told by their Host header and content type and refused. In a container it is another address,
and another name by which it may be called, and the network between containers is what keeps others out.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import aclosing, asynccontextmanager

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware
from pydantic import ValidationError

from orchestrator.embedded.model.catalogue import ModelFile
from orchestrator.embedded.model.engine import Engine, EngineError
from orchestrator.embedded.model.generation import Event, Finished, generate, warm_up
from orchestrator.embedded.model.replies import Reply, error_body, error_frame
from orchestrator.embedded.model.requests import ChatRequest

LARGEST_BODY = 4 * 1024 * 1024
STOP_WITHIN = 3.0
RETRY_AFTER = 5
LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")

log = structlog.get_logger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refused(Exception):
    """The request is answered with an error."""

    def __init__(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        super().__init__(status)
        self.response = web.Response(status=status, body=body, content_type="application/json", headers=headers)


class Slots:
    """The places at the model, and the line before them."""

    def __init__(self, slots: int, queue: int) -> None:
        self.most = slots
        self._free = asyncio.Semaphore(slots)
        self._queue = queue
        self.busy = 0
        self.waiting = 0

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """A place, after waiting for it in line. Raises Refused when the line is too long."""
        if self._free.locked() and self.waiting >= self._queue:
            message = "The model is busy and too many requests are waiting already. Try again in a moment."
            body = error_body(message, "rate_limit_error", code="rate_limit_exceeded")
            raise Refused(429, body, {"Retry-After": str(RETRY_AFTER)})
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1
            self._free.release()


class ModelServer:
    """The routes, around one engine."""

    def __init__(
        self, engine: Engine, model: ModelFile, *, slots: int, queue: int, known_as: str | None = None
    ) -> None:
        self._engine = engine
        self._model = model
        self._hosts = (*LOCAL_HOSTS, *([known_as] if known_as else []))
        self._slots = Slots(slots, queue)
        self._started = int(time.time())

    def app(self) -> web.Application:
        """The application, with its life cycle."""
        app = web.Application(client_max_size=LARGEST_BODY, middlewares=[envelope(self._hosts)])
        app.cleanup_ctx.append(self._life)
        app.router.add_get("/health", self.health)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/v1/models/{id:.+}", self.retrieve)
        app.router.add_post("/v1/chat/completions", self.complete)
        return app

    def facts(self) -> dict[str, str | int]:
        """What its log says of it."""
        return {"model": self._model.id, "slots": self._slots.most, "context": self._engine.options.context}

    async def health(self, _request: web.Request) -> web.Response:
        """That the model is loaded (nobody answers before), and how much it has to do."""
        return web.json_response({"status": "ok", "busy": self._slots.busy, "waiting": self._slots.waiting})

    async def models(self, _request: web.Request) -> web.Response:
        """The one model."""
        return web.json_response({"object": "list", "data": [self._card()]})

    async def retrieve(self, request: web.Request) -> web.Response:
        """The one model, by its id."""
        id_ = request.match_info["id"]
        if id_ != self._model.id:
            raise Refused(404, error_body(f"The model '{id_}' does not exist.", param="model", code="model_not_found"))
        return web.json_response(self._card())

    async def complete(self, http: web.Request) -> web.StreamResponse:
        """Answer a chat completion, streamed or whole."""
        request = await read_request(http)
        began = time.monotonic()
        async with self._slots.take(), aclosing(generate(self._engine, self._model, request)) as events:
            waited = time.monotonic() - began
            logged = _logged(events, waited=round(waited, 3), streamed=request.stream)
            reply = Reply(self._model.id, request.wants_usage)
            if request.stream:
                return await _stream(http, reply, logged)
            return web.json_response(await reply.whole(logged))

    def _card(self) -> dict[str, str | int]:
        return {
            "id": self._model.id,
            "object": "model",
            "created": self._started,
            "owned_by": "assistantd",
            "max_model_len": self._engine.options.context,
        }

    async def _life(self, _app: web.Application) -> AsyncIterator[None]:
        await self._engine.open()
        warming = asyncio.create_task(self._warm_up())
        yield
        warming.cancel()
        await asyncio.wait([warming])
        await self._engine.close()

    async def _warm_up(self) -> None:
        async with self._slots.take():
            try:
                await warm_up(self._engine)
            except EngineError as error:
                log.warning("model_warm_up_failed", reason=error.message)


async def read_request(http: web.Request) -> ChatRequest:
    """The body, read strictly."""
    if http.content_type != "application/json":
        raise Refused(415, error_body("The body must be JSON, with the content type application/json."))
    try:
        return ChatRequest.model_validate_json(await http.read())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        param = ".".join(str(step) for step in first["loc"])
        message = f"{first['msg']} ({param})." if param else f"{first['msg']}."
        raise Refused(400, error_body(message, param=param or None)) from error


async def _stream(http: web.Request, reply: Reply, events: AsyncIterator[Event]) -> web.StreamResponse:
    """Send events as they come. The first one is awaited before the headers, so that a refusal has a status."""
    first = await anext(events)
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
    )
    await response.prepare(http)
    try:
        await response.write(b"".join(reply.frames(first)))
        async for event in events:
            await response.write(b"".join(reply.frames(event)))
    except EngineError as error:
        await response.write(error_frame(error.message))
    await response.write_eof()
    return response


async def _logged(events: AsyncIterator[Event], **facts: float | bool) -> AsyncIterator[Event]:
    began = time.monotonic()
    async for event in events:
        if isinstance(event, Finished):
            log.info(
                "model_answered",
                reason=event.reason,
                prompt_tokens=event.usage.prompt,
                cached_tokens=event.usage.cached,
                completion_tokens=event.usage.completion,
                seconds=round(time.monotonic() - began, 3),
                **facts,
            )
        yield event


def envelope(hosts: Collection[str]) -> Middleware:
    """Tell every error in OpenAI's envelope, and refuse whoever calls us by another name than these."""

    @web.middleware
    async def enveloped(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.host.rpartition(":")[0] not in hosts and request.host not in hosts:
            return Refused(403, error_body("This server answers to its own machine only.")).response
        return await _enveloped(request, handler)

    return enveloped


async def _enveloped(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refused as refused:
        return refused.response
    except EngineError as error:
        return _engine_refusal(error)
    except web.HTTPRequestEntityTooLarge:
        return Refused(413, error_body(f"The body is larger than {LARGEST_BODY:,} bytes.")).response
    except web.HTTPException as error:
        message = f"Invalid URL ({request.method} {request.path}). The built-in model only chats; it has no embeddings."
        return Refused(error.status, error_body(message)).response


def _engine_refusal(error: EngineError) -> web.StreamResponse:
    if error.is_too_long:
        message = (
            f"This model's maximum context length is {error.context} tokens. However, your messages resulted in "
            f"{error.tokens} tokens. "
            "Please reduce the length of the messages."
        )
        return Refused(400, error_body(message, param="messages", code="context_length_exceeded")).response
    if error.status < 500:
        return Refused(400, error_body(error.message)).response
    return Refused(500, error_body(error.message, "server_error")).response


def serve(server: ModelServer, *, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; what is being answered then has a few seconds to end."""
    log.info("model_server_ready", host=host, port=port, **server.facts())
    web.run_app(
        server.app(),
        host=host,
        port=port,
        print=None,
        access_log=None,
        shutdown_timeout=STOP_WITHIN,
        handler_cancellation=True,
    )
