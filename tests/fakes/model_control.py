"""The scripted model server from another process: its /control routes, and the client that tests use.

with RemoteModelServer.start() as server:            # a child process, killed at the end
    server.script(Reply.text("Hello!"))
    …
    server.wait_for(lambda state: state["disconnects"] == 1)

GET  /control/requests   the last requests: number, at, body, headers, request_id, deltas_sent, disconnected,
                         delivered_at
GET  /control/state      requests, disconnects, open_streams, and gates: name → open, waiting
POST /control/script     {"replies": [Reply.to_json(), …]}
POST /control/release    {"gate": name}
POST /control/reset      forget script, rules, requests, gates and counts
"""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.fakes.replies import Reply

if TYPE_CHECKING:
    from tests.fakes.model_server import ModelServer

_ROOT = Path(__file__).parents[2]
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def control_routes(server: "ModelServer") -> list[web.RouteDef]:
    """Routes that do over HTTP what the server's methods do in process."""

    async def show_requests(_: web.Request) -> web.Response:
        return web.json_response({"data": [asdict(recorded) for recorded in server.requests]})

    async def show_state(_: web.Request) -> web.Response:
        gates = {name: {"open": gate.opened.is_set(), "waiting": gate.waiting} for name, gate in server.gates.items()}
        counts = {
            "requests": server.request_count,
            "disconnects": server.disconnects,
            "open_streams": server.open_streams,
        }
        return web.json_response({**counts, "gates": gates})

    async def script(request: web.Request) -> web.Response:
        server.script(*map(Reply.from_json, (await request.json())["replies"]))
        return web.json_response({"ok": True})

    async def release(request: web.Request) -> web.Response:
        server.release((await request.json())["gate"])
        return web.json_response({"ok": True})

    async def reset(_: web.Request) -> web.Response:
        await server.reset()
        return web.json_response({"ok": True})

    return [
        web.get("/control/requests", show_requests),
        web.get("/control/state", show_state),
        web.post("/control/script", script),
        web.post("/control/release", release),
        web.post("/control/reset", reset),
    ]


class RemoteModelServer:
    """A scripted model server in another process, driven without an event loop."""

    def __init__(self, base_url: str, process: "subprocess.Popen[str] | None" = None) -> None:
        self.base_url = base_url
        self.process = process
        self._control = base_url.removesuffix("/v1") + "/control"

    @classmethod
    @contextmanager
    def start(cls, *options: str) -> Iterator["RemoteModelServer"]:
        """Run `python -m tests.fakes.model_server` with these options for as long as the block lasts."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.model_server", "--until-eof", *options],
            cwd=_ROOT,
            stdin=subprocess.PIPE,  # closed by the kernel when we are gone, however we went
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            base_url = process.stdout.readline().strip()
            if not base_url:
                raise RuntimeError("The scripted model server did not start; its error output is above.")
            yield cls(base_url, process)
        finally:
            process.kill()
            process.communicate(timeout=10)

    def script(self, *replies: Reply) -> None:
        """Answer the next requests with these, in order."""
        self._call("script", {"replies": [reply.to_json() for reply in replies]})

    def release(self, gate: str) -> None:
        """Let pass what waits at a gate, and what comes to it later."""
        self._call("release", {"gate": gate})

    def reset(self) -> None:
        """Forget everything, and let pass whatever waits."""
        self._call("reset", {})

    def requests(self) -> list[dict[str, Any]]:
        """The last requests, oldest first."""
        found: list[dict[str, Any]] = self._call("requests")["data"]
        return found

    def state(self) -> dict[str, Any]:
        """Counts and gates."""
        return self._call("state")

    def wait_for(self, condition: Callable[[dict[str, Any]], bool], *, timeout: float = 60) -> dict[str, Any]:
        """The first state that fulfils `condition`."""
        deadline = time.monotonic() + timeout
        while not condition(state := self.state()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"The scripted model server is still at {state}.")
            time.sleep(0.01)
        return state

    def _call(self, what: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        url = f"{self._control}/{what}"
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310  # our own http
        with _DIRECT.open(request, timeout=60) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
