"""Server-sent events as a client reads them: a byte stream, cut into the data of its events.

The split is on bytes, so no code point is ever torn; the usual shape, one `data: ` line and an empty one, is the short
way.
"""

from typing import Final

from orchestrator.openai_errors import UpstreamTrouble

MAX_EVENT: Final = 4 * 1024 * 1024


class EventSplitter:
    """Cuts a byte stream into the `data` of its server-sent events, in whatever pieces it arrives."""

    def __init__(self) -> None:
        self.idle = True  # the next chunk begins an event
        self._rest = bytearray()
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that `chunk` completes."""
        return [data for block in self.blocks(chunk) if (data := data_of(block))]

    def blocks(self, chunk: bytes) -> list[bytes]:
        """The events that `chunk` completes, each as it came, without the empty line."""
        if self._after_cr or b"\r" in chunk:
            chunk = self._unify_line_ends(chunk)
        if self._rest:
            seen = len(self._rest)
            self._rest += chunk
            if self._rest.find(b"\n\n", seen - 1) < 0:
                self.idle = False
                self._check(len(self._rest))
                return []
            chunk = bytes(self._rest)
            self._rest.clear()
        blocks = chunk.split(b"\n\n")
        if rest := blocks.pop():
            self._check(len(rest))
            self._rest += rest
        self.idle = not rest and not self._after_cr
        return blocks

    def flush(self) -> list[bytes]:
        """The data of a last event that ended with the stream instead of with an empty line."""
        return [data for block in self.rest() if (data := data_of(block))]

    def rest(self) -> list[bytes]:
        """The same as it came."""
        block = bytes(self._rest)
        self._rest.clear()
        return [block]

    def _unify_line_ends(self, chunk: bytes) -> bytes:
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    @staticmethod
    def _check(size: int) -> None:
        if size > MAX_EVENT:
            raise UpstreamTrouble("event_too_large")


def data_of(block: bytes) -> bytes:
    """The data of one event; comments, keep-alive lines and other fields have none."""
    if block.startswith(b"data: ") and b"\n" not in block:
        return block[6:]
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)
