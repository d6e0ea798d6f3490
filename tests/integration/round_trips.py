"""Counts the round trips to Postgres, of whatever driver: what clients send is read on its way through a proxy."""

import asyncio
from typing import cast

from tests.fakes.proxy import Proxy

SSL_REQUEST = 80877103
ASKS_FOR_AN_ANSWER = (b"Q", b"S")
"""A simple query, and `Sync`, which ends whatever was sent of the extended protocol."""


class RoundTrips(Proxy):
    """A proxy that counts how often an answer was asked for. Use `before` with the database's URL."""

    count = 0

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ways: asyncio.TaskGroup, *, late: bool
    ) -> None:
        heard = cast("asyncio.StreamReader", _Heard(reader, self)) if late else reader
        await super()._carry(heard, writer, ways, late=late)


class _Heard:
    """What one connection's client sends."""

    def __init__(self, reader: asyncio.StreamReader, counted: RoundTrips) -> None:
        self._reader = reader
        self._counted = counted
        self._begun = False
        self._left = b""

    async def read(self, most: int) -> bytes:
        """As the reader's."""
        piece = await self._reader.read(most)
        self._left += piece
        while self._next():
            pass
        return piece

    def _next(self) -> bool:
        """Take a message off what is left; those before the session begins have no type."""
        head = 1 if self._begun else 0
        if len(self._left) < head + 8 and not (self._begun and len(self._left) >= head + 4):
            return False
        size = head + int.from_bytes(self._left[head : head + 4])
        if len(self._left) < size:
            return False
        if not self._begun:
            self._begun = int.from_bytes(self._left[4:8]) != SSL_REQUEST
        elif self._left[:1] in ASKS_FOR_AN_ANSWER:
            self._counted.count += 1
        self._left = self._left[size:]
        return True
