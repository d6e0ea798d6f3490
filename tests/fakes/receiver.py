"""A receiver of webhooks: a server on loopback that keeps what is posted to it."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Posted = tuple[dict[str, str], bytes]
"""Headers, their names in small letters, and body."""
PATIENCE = 60.0


class Receiver:
    """`answers` are the next statuses; then it is 200. Stop it."""

    def __init__(self) -> None:
        self.got: list[Posted] = []
        self.answers: list[int] = []
        self._port = 0
        self._heard = threading.Condition()
        self.start()

    @property
    def url(self) -> str:
        """Where to post to."""
        return f"http://127.0.0.1:{self._port}/hook"

    def start(self) -> None:
        """Listen, where it has listened before."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler())
        self._port = int(self._server.server_port)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def wait(self, count: int, about: str = "") -> list[Posted]:
        """What has come about an object, once that is so much."""
        with self._heard:
            assert self._heard.wait_for(lambda: len(self._about(about)) >= count, PATIENCE), self.got
            return self._about(about)

    def types(self, count: int, about: str) -> list[str]:
        """The types of those events."""
        return [json.loads(body)["type"] for _, body in self.wait(count, about)]

    def stop(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _about(self, id_: str) -> list[Posted]:
        return [posted for posted in self.got if id_ in posted[1].decode()]

    def _hear(self, posted: Posted) -> int:
        with self._heard:
            self.got.append(posted)
            self._heard.notify_all()
            return self.answers.pop(0) if self.answers else 200

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hear = self._hear

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                self.send_response(hear(({name.lower(): value for name, value in self.headers.items()}, body)))
                self.send_header("Content-Length", "0")
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        return Handler
