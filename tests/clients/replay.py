"""A server that plays streams to clients, ours and those of a folder.

Whoever holds recorded streams can have them played as well: ASSISTANTD_REPLAY names a folder of `*.sse` files.
"""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from typing_extensions import override

from tests.clients.streams import STREAMS

FOLDER = "ASSISTANTD_REPLAY"


def all_streams() -> dict[str, str]:
    """By name."""
    folder = os.environ.get(FOLDER)
    return STREAMS | ({path.stem: path.read_text() for path in sorted(Path(folder).glob("*.sse"))} if folder else {})


def request_for(stream: str) -> str:
    """Which request is answered with such a stream."""
    return {"thread.created": "create_and_run", "thread.run.step.completed": "submit"}.get(
        next(line for line in stream.splitlines() if line.startswith("event: ")).removeprefix("event: "), "run"
    )


def outcome(stream: str) -> dict[str, Any]:
    """What a client must make of a stream: as in replayed.py, but for the callbacks."""
    events = [block.split("\n") for block in stream.split("\n\n") if block.startswith("event: ")]
    told = [(name.removeprefix("event: "), data.removeprefix("data: ")) for name, data in events]
    heard = [(name, json.loads(data)) for name, data in told if data != "[DONE]"]
    parts = [part for name, data in heard if name == "thread.message.delta" for part in data["delta"]["content"]]
    ends = ("thread.message.completed", "thread.message.incomplete")
    runs = [data["status"] for _, data in heard if data.get("object") == "thread.run"]
    return {
        "status": runs[-1] if runs else None,
        "text": "".join(part["text"]["value"] for part in parts if part["type"] == "text"),
        "contents": [data["content"] for name, data in heard if name in ends],
        "arguments": _arguments([data for name, data in heard if name == "thread.run.step.delta"]),
        "images": [part["image_file"]["file_id"] for part in parts if part["type"] == "image_file"],
    }


def _arguments(deltas: list[Any]) -> dict[str, str]:
    calls = [call for delta in deltas for call in delta["delta"]["step_details"]["tool_calls"]]
    found: dict[int, list[str]] = {}
    for call in calls:
        if call["type"] == "function":
            found.setdefault(call["index"], [call.get("id", "")]).append(call["function"]["arguments"])
    return {pieces[0]: "".join(pieces[1:]) for pieces in found.values()}


@contextmanager
def playing(streams: Mapping[str, str]) -> Iterator[str]:
    """The base URL of a server that answers each request with the stream that its thread, or its assistant, names."""
    over = threading.Event()

    class Player(BaseHTTPRequestHandler):
        """HTTP/1.0: a stream ends with its connection."""

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            thread = self.path.split("/")[3]
            name = body["assistant_id"] if thread == "runs" else thread
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream; charset=utf-8")
            self.end_headers()
            self.wfile.write(streams[name].encode())
            if name == "silence":
                over.wait(20)

        @override
        def log_message(self, *_: Any) -> None:
            """Nobody listens."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Player) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            over.set()
            server.shutdown()
            serving.join(10)
