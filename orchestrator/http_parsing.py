"""An HTTP/1.1 answer, taken apart as it arrives: what a connection knows of the answer that is under way on it.

httptools calls back for each part; what it makes of the bytes is left here, as attributes. Bounded are heads and what
else a server may send that is no body: who takes the body bounds that.
"""

from typing import Final

import httptools

LONGEST_HEAD: Final = 64 * 1024
"""Bytes that a server may send before its answer's head is whole, and later that belong to no body."""


class Incoming:
    """An answer, as far as it has come. `status` is 0 until its head is whole."""

    __slots__ = (
        "_aside",
        "_framed",
        "_interim",
        "_parser",
        "_unread",
        "body",
        "fields",
        "keep",
        "over",
        "status",
    )

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(  # what aiohttp takes, too: servers differ
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self.keep = self.over = False
        self._clear()

    def _clear(self) -> None:
        """Nothing has come of the next answer."""
        self._aside = self._unread = self.status = 0
        self._framed = self._interim = False
        self.fields: dict[str, str] = {}
        self.body: list[bytes] = []

    def _parse(self, data: bytes) -> str | None:
        """Take what came apart; returns what is wrong with it, if something is."""
        self._aside += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            return "malformed answer"
        except httptools.HttpParserUpgrade:
            return "unwanted upgrade"
        return "too much beside the body" if self._aside > LONGEST_HEAD else None

    # -- what the parser says --

    def on_message_begin(self) -> None:
        """A head begins; one behind the answer's end is not wanted."""
        if self.over:
            self.keep = False
            self._interim = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head; what comes behind the body is dropped."""
        if not self.status:
            self.fields.setdefault(name.decode("latin-1").lower(), value.decode("utf-8", "surrogateescape"))

    def on_headers_complete(self) -> None:
        """The head is here, perhaps only that of an interim answer."""
        if self.over:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self._interim = True
            self.fields.clear()
            return
        fields = self.fields
        self._framed = "content-length" in fields or "chunked" in fields.get("transfer-encoding", "").lower()
        self._aside = 0
        self.status = status

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self.over:
            return
        self.body.append(body)
        self._unread += len(body)
        self._aside = 0

    def on_message_complete(self) -> None:
        """The end, unless it was only that of an interim answer."""
        if self._interim:
            self._interim = False
            return
        self.over = True
        self.keep = self._parser.should_keep_alive()
