"""A scripted, OpenAI-compatible model server over real HTTP: tests and benches decide what the model says.

In process:

    async with ModelServer() as server:              # an ephemeral port; server.base_url ends in /v1
        server.script(Reply.tool_calls(("get_weather", {"city": "Paris"})), Reply.text("It rains."))
        …
        assert server.requests[0].body["model"] == "gpt-4o"

For each request the first of these decides: the script (a queue), a rule (`server.rule(lambda body: …)`, for requests
that arrive in any order), the directives in the last user message (tests/fakes/directives.py), and at last "Hello!".

As its own process: `python -m tests.fakes.model_server --port 0`; the first line of its output is its base URL. Then
tests/fakes/model_control.py does over HTTP what the methods do here.

Nobody sleeps: `received`, `disconnected` and `reached` wait for what they say, and fail after `timeout` seconds.
"""

import argparse
import asyncio
import secrets
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
import uvloop
from aiohttp import web

from tests.fakes import embeddings
from tests.fakes.directives import reply_for
from tests.fakes.model_control import control_routes
from tests.fakes.models import error, model_routes
from tests.fakes.replies import TOKEN, Reply, completion, frames

KEPT_REQUESTS = 10_000
Rule = Callable[[Mapping[str, Any]], Reply | None]


@dataclass(slots=True)
class Recorded:
    """One request to `/chat/completions`, and what became of it."""

    number: int
    at: float
    body: dict[str, Any]
    headers: dict[str, str]
    request_id: str
    deltas_sent: int = 0
    disconnected: bool = False
    delivered_at: float | None = None
    """When the last byte of a streamed reply had been handed over to a client that was still there."""


@dataclass(slots=True)
class Gate:
    """Where replies wait. Once released, it stays open."""

    opened: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0


class ModelServer:
    """See the module. `api_key`, when given, is demanded of every request but those to /control."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, api_key: str | None = None) -> None:
        self.base_url = ""
        self._address = (host, port)
        self._api_key = api_key
        self._created = int(time.time())
        self._runner: web.AppRunner | None = None
        self._changed = asyncio.Condition()
        self._closing = False
        self._forget()

    def _forget(self) -> None:
        self.requests: deque[Recorded] = deque(maxlen=KEPT_REQUESTS)
        self.request_count = 0
        self.disconnects = 0
        self.open_streams = 0
        self._script: deque[Reply] = deque()
        self._rules: list[Rule] = []
        self.gates: dict[str, Gate] = {}
        self._counts: Counter[str] = Counter()

    async def __aenter__(self) -> "ModelServer":
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._complete),
                web.post("/v1/embeddings", self._embed),
                *model_routes(self._refuse, self._created),
                *control_routes(self),
            ]
        )
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, *self._address, backlog=4096).start()
        host, port = self._runner.addresses[0][:2]
        self.base_url = f"http://{host}:{port}/v1"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._closing = True
        if self._runner is not None:
            await self._runner.cleanup()

    def script(self, *replies: Reply) -> None:
        """Answer the next requests with these, in order."""
        self._script.extend(replies)

    def rule(self, rule: Rule) -> None:
        """Let `rule` look at the body of every request that the script does not answer."""
        self._rules.append(rule)

    def gate(self, name: str) -> Gate:
        """The gate of this name; it is made, closed, when it is first mentioned."""
        return self.gates.setdefault(name, Gate())

    def release(self, name: str) -> None:
        """Let pass what waits at a gate, and what comes to it later."""
        self.gate(name).opened.set()

    async def reset(self) -> None:
        """Forget everything, and let pass whatever waits."""
        for gate in self.gates.values():
            gate.opened.set()
        self._forget()
        await self._tell()

    async def received(self, count: int = 1, *, timeout: float = 60) -> None:
        """Wait until so many requests have come in all."""
        await self._wait_for(lambda: self.request_count >= count, timeout)

    async def disconnected(self, count: int = 1, *, timeout: float = 60) -> None:
        """Wait until so many clients have left before their reply was over."""
        await self._wait_for(lambda: self.disconnects >= count, timeout)

    async def reached(self, gate: str, count: int = 1, *, timeout: float = 60) -> None:
        """Wait until so many replies stand before a gate."""
        await self._wait_for(lambda: self.gate(gate).waiting >= count, timeout)

    async def _wait_for(self, condition: Callable[[], bool], timeout: float) -> None:
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(condition)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        if refused := self._refuse(request):
            return refused
        recorded = await self._record(request)
        try:
            reply = self._choose(recorded.body)
        except (AttributeError, KeyError, TypeError, ValueError):
            return error(400, "'messages' is not what it should be.", "messages")
        self.open_streams += 1
        try:
            return await self._answer(request, recorded, reply)
        except (asyncio.CancelledError, ConnectionError):
            if not self._closing and reply.drop_after is None:
                recorded.disconnected = True
                self.disconnects += 1
            raise
        finally:
            self.open_streams -= 1
            with suppress(asyncio.CancelledError):
                await self._tell()

    async def _embed(self, request: web.Request) -> web.StreamResponse:
        if refused := self._refuse(request):
            return refused
        recorded = await self._record(request)
        if self._script:
            return await self._answer(request, recorded, self._script.popleft())
        return embeddings.respond(recorded.body)

    async def _record(self, request: web.Request) -> Recorded:
        body = orjson.loads(await request.read())
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.request_count += 1
        recorded = Recorded(self.request_count, time.time(), body, headers, f"req_{secrets.token_hex(16)}")
        self.requests.append(recorded)
        await self._tell()
        return recorded

    def _choose(self, body: dict[str, Any]) -> Reply:
        if self._script:
            return self._script.popleft()
        for rule in self._rules:
            if (reply := rule(body)) is not None:
                return reply
        return reply_for(body["messages"], self._counts)

    async def _answer(self, request: web.Request, recorded: Recorded, reply: Reply) -> web.StreamResponse:
        headers = {"x-request-id": recorded.request_id, "openai-processing-ms": "1", **dict(reply.headers)}
        if reply.hangs:
            await asyncio.Event().wait()
        if reply.body is not None:
            headers["Content-Type"] = reply.content_type
            return web.Response(body=reply.body.encode("latin-1"), status=reply.status, headers=headers)
        if reply.status != 200:
            return _json(reply.error_json(), status=reply.status, headers=headers)
        if not recorded.body.get("stream"):
            await self._pause(reply, 0, reply.first)
            token = secrets.token_hex(11)
            return _json(completion(reply, recorded.body["model"], self._created, token), headers=headers)
        return await self._stream(request, recorded, reply, headers)

    async def _stream(
        self, request: web.Request, recorded: Recorded, reply: Reply, headers: dict[str, str]
    ) -> web.StreamResponse:
        with_usage = bool((recorded.body.get("stream_options") or {}).get("include_usage"))
        prepared = frames(reply, recorded.body["model"], self._created, with_usage)
        token = secrets.token_hex(11).encode()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8", **headers})
        response.enable_chunked_encoding()
        await response.prepare(request)
        pending = [prepared.head]  # frames that nothing keeps apart leave in one write
        for place, frame in enumerate(prepared.deltas):
            wait = reply.each if place else reply.first
            if wait or place in (reply.drop_after, reply.gate_after if reply.gate else None):
                await response.write(b"".join(pending).replace(TOKEN, token))
                pending.clear()
                await self._pause(reply, place, wait, response)
                if place == reply.drop_after:
                    return _abort(request, response)
            pending.append(frame)
            recorded.deltas_sent = place + 1
        await response.write(b"".join(pending).replace(TOKEN, token))
        await self._pause(reply, len(prepared.deltas), 0, response)
        if reply.drop_after is not None:
            return _abort(request, response)
        await response.write_eof(prepared.tail.replace(TOKEN, token))
        recorded.delivered_at = time.time()
        return response

    async def _pause(self, reply: Reply, place: int, wait: float, response: web.StreamResponse | None = None) -> None:
        if wait:
            await asyncio.sleep(wait)
        if reply.gate is None or place != reply.gate_after:
            return
        gate = self.gate(reply.gate)
        gate.waiting += 1
        try:
            await self._tell()
            while response is not None and reply.beat and not gate.opened.is_set():
                await response.write(b": beat\n\n")
                await asyncio.sleep(reply.beat)
            await gate.opened.wait()
        finally:
            gate.waiting -= 1

    def _refuse(self, request: web.Request) -> web.Response | None:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self._api_key is None or given == self._api_key:
            return None
        said = f"Incorrect API key provided: {given[:5]}***."
        return _json(Reply.error(401, said, code="invalid_api_key").error_json(), status=401)


def _json(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json", headers=headers)


def _abort(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return response


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    if options.until_eof:
        told = partial(asyncio.get_running_loop().call_soon_threadsafe, stop.set)
        threading.Thread(target=lambda: (sys.stdin.read(), told()), daemon=True).start()
    async with ModelServer(host=options.host, port=options.port, api_key=options.api_key) as server:
        print(server.base_url, flush=True)  # noqa: T201  # how the parent learns the port
        await stop.wait()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="A scripted OpenAI-compatible model server.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--api-key", default=None, help="demand this key")
    parser.add_argument("--until-eof", action="store_true", help="stop when standard input closes")
    with suppress(KeyboardInterrupt):
        uvloop.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
