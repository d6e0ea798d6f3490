"""aiohttp, for what `orchestrator.http_stream` is not made for: proxies, odd addresses, large bodies.

Import it when it is needed, and not before: it takes 8 MB and a quarter of a second, and most processes of ours never
ask for anything that needs it. What breaks is an OSError here as well.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import Final

import aiohttp

from orchestrator.http_connection import LINGER, BrokenError

_LARGE: Final = 1024 * 1024
"""Bytes of a body beyond which it is sent in pieces."""


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except aiohttp.ClientError as error:
        if isinstance(error, OSError):
            raise
        raise BrokenError(type(error).__name__) from error


class Client:
    """Kept connections; any number of requests may run at once. Those who ask are bounded, so there is no limit here.

    Redirects are never followed. Requests raise OSError (TimeoutError is one). The times are seconds: to connect, of
    silence, and of all together.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        proxy: str | None,
        *,
        connect: float | None = None,
        silence: float | None = None,
        total: float | None = None,
    ) -> None:
        self._timeout = aiohttp.ClientTimeout(total=total, sock_connect=connect, sock_read=silence)
        self._connect = connect
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, keepalive_timeout=30),
            headers=headers,
            timeout=self._timeout,
            proxy=proxy,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close all connections; requests under way fail."""
        await self._session.close()

    async def get(self, url: str) -> "Answer":
        """The answer to a GET, to be closed."""
        with _told():
            return Answer(await self._session.get(url, allow_redirects=False))

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], silence: float | None = None) -> "Answer":
        """The answer to a POST of JSON, to be closed; `silence` in the place of the usual one."""
        timeout = self._timeout
        if silence is not None:
            timeout = aiohttp.ClientTimeout(total=timeout.total, sock_connect=self._connect, sock_read=silence)
        with _told():
            response = await self._session.post(
                url,
                data=BytesIO(body) if len(body) > _LARGE else body,
                headers={"Content-Type": "application/json", **headers},
                allow_redirects=False,
                timeout=timeout,
            )
        return Answer(response)


class Answer:
    """An answer whose head is here, as `orchestrator.openai_http.Response` describes it."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers = response.headers
        self.content_type = response.content_type

    async def read(self, within: float | None = None, offer: Callable[[bytes], bool] | None = None) -> bytes:
        """What has come of the body, or comes next; nothing at its end."""
        while (data := await self._next(within)) and offer is not None and offer(data):
            pass
        return data

    async def _next(self, within: float | None) -> bytes:
        if within is None:
            return await self._any()
        try:
            async with asyncio.timeout(within):
                return await self._any()
        except OSError:
            return b""

    async def _any(self) -> bytes:
        with _told():
            return await self._response.content.readany()

    async def reach_end(self) -> None:
        """Let the answer come to its end, so that its connection can be used again."""
        try:
            async with asyncio.timeout(LINGER):
                while not self._response.content.at_eof() and await self._any():
                    pass
        except OSError:
            return  # the connection is cut instead

    def close(self) -> None:
        """Be done with it: its connection is free if it was read to its end, else cut."""
        self._response.close()
