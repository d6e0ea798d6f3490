"""A form (`multipart/form-data`) that brings one file, read as it comes: nothing of the file is kept.

    form = Form(request, file="file", fields=FIELDS, silence=…)
    await form.begin()                   fields before the file are known
    … form.content(limit) …              the file's bytes, as they arrive
    await form.finish()                  fields behind it are known too

Everything else is bounded: the form's fields, their sizes, their headers, and the time that the client may be silent.
The parser is the one that FastAPI's own forms stand on, without what spools files to the disk.
"""

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator
from urllib.parse import unquote_to_bytes

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from orchestrator.echo import echo
from orchestrator.errors import InvalidRequest, TooLarge, TooSlow

MAX_FIELD = 16 * 1024
MAX_HEADER = 16 * 1024
MAX_HEADERS = 16
ROOM = 1024 * 1024
"""Bytes that a form may have besides the file, before its announced length is believed to be too much."""

BROKEN = "We could not parse the multipart form of your request."
_EXTENDED = re.compile(r"""filename\*\s*=\s*([\w-]+)'[^']*'([^;\s"]+)""", re.IGNORECASE)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.?)*(?:"|\Z)', re.DOTALL)
"""One that is never closed ends with the header: to look for its end from each quote again would take seconds."""
CHARSETS = frozenset({"utf-8", "iso-8859-1"})
"""RFC 5987's. Python knows more by such names, some of which are no character sets."""


class Form:
    """One request's form. `file` names the part that brings the bytes, `fields` the texts that may come with it."""

    def __init__(self, request: Request, *, file: str, fields: frozenset[str] = frozenset(), silence: float) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._body = request.stream()
        self._length = request.headers.get("content-length", "")
        self._file = file
        self._known = fields
        self._silence = silence
        self._header = b""
        self._value = b""
        self._disposition = b""
        self._text: tuple[str, bytearray] | None = None
        self._pieces: deque[bytes] = deque()
        self._began = self._arrived = self._ended = False
        self._parser = MultipartParser(
            _boundary(request.headers.get("content-type", "")),
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
            max_header_count=MAX_HEADERS,
            max_header_size=MAX_HEADER,
        )

    async def begin(self) -> None:
        """Read up to the file. Raises InvalidRequest if there is none, TooSlow."""
        while not (self._began or self._ended):
            await self._feed()
        if not self._began:
            message = f"Missing required parameter: '{self._file}'."
            raise InvalidRequest(message, param=self._file, code="missing_required_parameter")

    async def content(self, limit: int) -> AsyncIterator[bytes]:
        """The file's bytes. Raises TooLarge when there are more than `limit`, InvalidRequest, TooSlow."""
        too_large = TooLarge(f"The file is too large. Expected a file of at most {limit} bytes.", param=self._file)
        if self._length.isdigit() and int(self._length[:18]) > limit + ROOM:
            raise too_large
        size = 0
        while self._pieces or not self._arrived:
            if not self._pieces:
                await self._feed()
                continue
            piece = self._pieces.popleft()
            size += len(piece)
            if size > limit:
                raise too_large
            yield piece

    async def finish(self) -> None:
        """Read what follows the file. Raises InvalidRequest, TooSlow."""
        while not self._ended:
            await self._feed()

    async def _feed(self) -> None:
        try:
            async with asyncio.timeout(self._silence):
                chunk = await anext(self._body, None)
        except TimeoutError:
            raise TooSlow(f"The rest of the request did not arrive within {self._silence:g} seconds.") from None
        if chunk is None:
            raise InvalidRequest(f"{BROKEN} It ended in the middle.")
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise InvalidRequest(BROKEN) from None

    # -- what the parser tells --

    def _on_part_begin(self) -> None:
        self._disposition = b""
        self._text = None

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _on_headers_finished(self) -> None:
        name = _decoded(parse_options_header(self._disposition)[1].get(b"name", b""))
        shown = echo(name, 64)
        if name != self._file and name not in self._known:
            raise InvalidRequest(f"Unknown parameter: '{shown}'.", param=shown, code="unknown_parameter")
        if name in self.fields or (name == self._file and self._began):
            raise InvalidRequest(f"Duplicate parameter: '{shown}'.", param=shown, code="invalid_value")
        if name == self._file:
            self._began = True
            self.filename = filename(self._disposition)
        else:
            self._text = (name, bytearray())

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._text is None:
            self._pieces.append(data[start:end])
            return
        name, value = self._text
        if len(value) + end - start > MAX_FIELD:
            message = f"Invalid '{name}': string too long. Expected a string of at most {MAX_FIELD} bytes."
            raise InvalidRequest(message, param=name, code="string_above_max_length")
        value += data[start:end]

    def _on_part_end(self) -> None:
        if self._text is None:
            self._arrived = True
            return
        name, value = self._text
        self.fields[name] = _decoded(bytes(value))

    def _on_end(self) -> None:
        self._ended = True


def filename(disposition: bytes) -> str | None:
    """The name in a part's header: RFC 5987's form if there is one, else the plain one, which is UTF-8 by now."""
    extended = _EXTENDED.search(_QUOTED.sub("", disposition.decode("latin-1")))
    if extended is not None and extended[1].lower() in CHARSETS:
        try:
            return unquote_to_bytes(extended[2]).decode(extended[1])
        except UnicodeDecodeError:
            pass  # the plain name is there for this
    plain = parse_options_header(disposition)[1].get(b"filename")
    return None if plain is None else _decoded(plain)


def _boundary(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        shown = echo(kind.decode("latin-1"), 64)
        raise InvalidRequest(
            f"Invalid Content-Type header ({shown}), expected multipart/form-data. "
            "(HINT: If you're using curl, you can pass -H 'Content-Type: multipart/form-data')"
        )
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= 70:
        raise InvalidRequest(f"{BROKEN} Its header names no boundary of 1 to 70 characters.")
    return boundary


def _decoded(value: bytes) -> str:
    """UTF-8, as all clients of today send it; what is none was sent by one of yesterday."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
