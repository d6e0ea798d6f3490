"""An OpenAI-compatible endpoint over HTTP: one session of kept connections, our key on every request, nothing else's.

Whoever talks to the upstream (the `Model`, the gateway) goes through here, so that proxies, timeouts and what must be
hidden from clients are decided once. Redirects are never followed: the key would follow them.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from orchestrator.openai_errors import UpstreamTrouble
from orchestrator.settings import Settings

BROKEN: Final = (aiohttp.ClientError, TimeoutError, OSError)
"""What reading from a connection raises when it breaks."""

_END_WAIT = 0.25  # for the end of a response whose last event was seen, so that its connection can be used again
_LONGEST_ERROR = 64 * 1024
_LARGE_BODY = 1024 * 1024


class Endpoint:
    """`settings.upstream_base_url`. Open one per process and part; any number of requests may run at once.

    Proxies come from the environment, except for loopback: a proxy could not reach the model server on this machine.
    `hidden` are the words that no client may see: the upstream's address and key.
    """

    def __init__(self, settings: Settings) -> None:
        self.connect_timeout = settings.upstream_connect_timeout
        self._base = (settings.upstream_base_url or "").rstrip("/")
        self._read_timeout = settings.upstream_read_timeout
        host = urlsplit(self._base).netloc
        self.hidden = [host] if "." in host or ":" in host else []  # a bare name may be a word of any sentence
        self._headers = {"User-Agent": "assistantd", "Accept-Encoding": "identity"}
        if settings.upstream_api_key is not None and (key := settings.upstream_api_key.get_secret_value()):
            self._headers["Authorization"] = f"Bearer {key}"
            self.hidden.append(key)
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the session that all requests share. Connections are made when they are needed."""
        self._session = aiohttp.ClientSession(
            # No limit here: those who ask are bounded, and each has one request at a time.
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, keepalive_timeout=30),
            headers=self._headers,
            timeout=self._timeout(self._read_timeout),
            proxy=proxy_for(self._base),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close all connections; requests under way fail."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    @asynccontextmanager
    async def posted(
        self, path: str, body: bytes, *, headers: Mapping[str, str], patience: float | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The 200 to a POST of JSON; on leaving, its connection is free if it was read to the end, else cut.

        `patience` is how long the upstream may be silent, if not as long as the settings say. Raises UpstreamTrouble.
        """
        silence = self._read_timeout if patience is None else patience
        response = await self._post(path, body, headers, silence)
        del body  # it may be large, and the answer may take its time
        try:
            await self._check(response)
            yield response
        finally:
            response.close()

    async def fetch(self, path: str, limit: int) -> bytes:
        """The body of a 200 to a GET, of at most `limit` bytes. Raises UpstreamTrouble, and what BROKEN names."""
        async with self._opened().get(f"{self._base}{path}", allow_redirects=False) as response:
            await self._check(response)
            return await read(response, limit)

    async def _post(self, path: str, body: bytes, headers: Mapping[str, str], silence: float) -> aiohttp.ClientResponse:
        try:
            async with asyncio.timeout(self.connect_timeout + silence):  # sending has no timeout of its own
                return await self._opened().post(
                    f"{self._base}{path}",
                    data=BytesIO(body) if len(body) > _LARGE_BODY else body,
                    headers={"Content-Type": "application/json", **headers},
                    allow_redirects=False,
                    timeout=self._timeout(silence),
                )
        except BROKEN as error:
            raise UpstreamTrouble(type(error).__name__) from error

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        if response.status != 200:
            body = await self._error_body(response)
            raise UpstreamTrouble.from_answer(response.status, body, response.headers)
        if response.content_type == "text/html":
            raise UpstreamTrouble("web_page", headers=response.headers)

    async def _error_body(self, response: aiohttp.ClientResponse) -> bytes:
        try:
            async with asyncio.timeout(self.connect_timeout):
                return await read(response, _LONGEST_ERROR)
        except (UpstreamTrouble, *BROKEN):
            return b""  # the status says enough

    def _timeout(self, silence: float) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=None, sock_connect=self.connect_timeout, sock_read=silence)

    def _opened(self) -> aiohttp.ClientSession:
        if not self._base:
            raise UpstreamTrouble("not_configured", headers={"x-should-retry": "false"})
        if self._session is None:
            raise RuntimeError("Open the model before it is asked: `async with OpenAIModel(settings) as model`.")
        return self._session


async def read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The whole body. Raises UpstreamTrouble when it is longer than `limit`, and what BROKEN names."""
    body = bytearray()
    while chunk := await response.content.readany():
        body += chunk
        if len(body) > limit:
            raise UpstreamTrouble("reply_too_large")
    return bytes(body)


async def reach_end(response: aiohttp.ClientResponse) -> None:
    """Read the end of a response of which [DONE] was seen, so that its connection can be used again."""
    try:
        async with asyncio.timeout(_END_WAIT):
            while not response.content.at_eof() and await response.content.readany():
                pass
    except BROKEN:
        return  # the connection is cut instead


def proxy_for(base: str) -> str | None:
    """The proxy that the environment names for the upstream; none for loopback, which no proxy could reach for us."""
    parts = urlsplit(base)
    host = parts.hostname or ""
    proxy = getproxies().get(parts.scheme)
    if not proxy or host == "localhost" or host.startswith("127.") or host == "::1" or proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
