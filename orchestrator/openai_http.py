"""An OpenAI-compatible endpoint over HTTP: kept connections, our key on every request, nothing else's.

Whoever talks to the upstream (the `Model`, the gateway) goes through here, so that proxies, timeouts and what must be
hidden from clients are decided once. Redirects are never followed: the key would follow them.

Two clients do the work. What is asked goes over `orchestrator.http_stream`, which costs little; through a proxy, to an
address that is not plain, or with a body of megabytes it goes over aiohttp (`orchestrator.http_client`, imported when
it is first needed). Nobody else sees which one.
"""

import asyncio
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from orchestrator.http_connection import BrokenError
from orchestrator.http_stream import Server, Target
from orchestrator.openai_errors import UpstreamTrouble
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from orchestrator.http_client import Client

BROKEN: Final = (TimeoutError, OSError)
"""What reading from a connection raises when it breaks."""

_LONGEST_ERROR = 64 * 1024
_LARGE_BODY = 1024 * 1024


class Response(Protocol):
    """An answer whose head is here. `headers` are found by their lower-case names."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The fields of its head."""
        ...

    @property
    def content_type(self) -> str:
        """The type, without parameters."""
        ...

    def read(self, within: float | None = None, offer: Callable[[bytes], bool] | None = None) -> Awaitable[bytes]:
        """What has come of the body, or comes next; nothing at its end. Raises what BROKEN names, and what `offer`
        raises: that is given first what comes, and what it takes wakes nobody.

        `within` is for an answer of which nothing that matters is missing: silence for so many seconds is its end then,
        and so is a connection that breaks.
        """
        ...

    async def reach_end(self) -> None:
        """Nothing more is wanted: let the answer come to its end, so that its connection can be used again."""
        ...

    def close(self) -> None:
        """Be done with it: its connection is free if it was read to its end, else cut."""
        ...


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
        self._proxy: str | None = None
        self._open = False
        self._client: Client | None = None
        self._server: Server | None = None

    async def open(self) -> None:
        """Make what all requests share. Connections are made when they are needed."""
        self._proxy = proxy_for(self._base)
        target = Target.of(self._base, self._headers.values()) if self._proxy is None else None
        self._open = True
        if target is not None:
            self._server = Server(target, self._headers, connect_timeout=self.connect_timeout)
        elif self._base:  # all requests will need it
            await self._opened()

    async def close(self) -> None:
        """Close all connections; requests under way fail."""
        self._open = False
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._client is not None:
            await self._client.close()
            self._client = None

    @asynccontextmanager
    async def posted(
        self, path: str, body: bytes, *, headers: Mapping[str, str], patience: float | None = None
    ) -> AsyncIterator[Response]:
        """The 200 to a POST of JSON, closed on leaving; see `post`."""
        response = await self.post(path, body, headers=headers, patience=patience)
        del body  # it may be large, and the answer may take its time
        try:
            yield response
        finally:
            response.close()

    async def post(
        self, path: str, body: bytes, *, headers: Mapping[str, str], patience: float | None = None
    ) -> Response:
        """The 200 to a POST of JSON, to be closed by the caller.

        `patience` is how long the upstream may be silent, if not as long as the settings say. Raises UpstreamTrouble.
        """
        silence = self._read_timeout if patience is None else patience
        response = await self._post(path, body, headers, silence)
        try:
            await self._check(response)
        except BaseException:
            response.close()
            raise
        return response

    async def fetch(self, path: str, limit: int) -> bytes:
        """The body of a 200 to a GET, of at most `limit` bytes. Raises UpstreamTrouble, and what BROKEN names."""
        answer = await self._get(path)
        try:
            await self._check(answer)
            return await read(answer, limit)
        finally:
            answer.close()

    async def _get(self, path: str) -> Response:
        if self._server is None:
            client = await self._opened()
            return await client.get(f"{self._base}{path}")
        try:
            return await self._server.get(path, self._read_timeout)
        except BrokenError:  # a kept connection may be closed in this moment, and asking again costs nothing
            return await self._server.get(path, self._read_timeout)

    async def _post(self, path: str, body: bytes, headers: Mapping[str, str], silence: float) -> Response:
        try:
            if self._server is not None and len(body) <= _LARGE_BODY:
                return await self._server.post(path, body, headers, silence)
            client = await self._opened()
            async with asyncio.timeout(self.connect_timeout + silence):  # sending has no timeout of its own
                return await client.post(f"{self._base}{path}", body, headers, silence)
        except BROKEN as error:
            raise UpstreamTrouble(type(error).__name__) from error

    async def _check(self, response: Response) -> None:
        if response.status != 200:
            body = await self._error_body(response)
            raise UpstreamTrouble.from_answer(response.status, body, response.headers)
        if response.content_type == "text/html":
            raise UpstreamTrouble("web_page", headers=response.headers)

    async def _error_body(self, response: Response) -> bytes:
        try:
            async with asyncio.timeout(self.connect_timeout):
                return await read(response, _LONGEST_ERROR)
        except (UpstreamTrouble, *BROKEN):
            return b""  # the status says enough

    async def _opened(self) -> "Client":
        if not self._base:
            raise UpstreamTrouble("not_configured", headers={"x-should-retry": "false"})
        if self._open and self._client is None:
            module = await asyncio.to_thread(importlib.import_module, "orchestrator.http_client")
            if self._open and self._client is None:  # neither closed meanwhile, nor made by another request
                times = {"connect": self.connect_timeout, "silence": self._read_timeout}
                self._client = module.Client(self._headers, self._proxy, **times)
        if self._client is None:
            raise RuntimeError("Open the model before it is asked: `async with OpenAIModel(settings) as model`.")
        return self._client


async def read(response: Response, limit: int) -> bytes:
    """The whole body. Raises UpstreamTrouble when it is longer than `limit`, and what BROKEN names."""
    body = bytearray()
    while chunk := await response.read():
        body += chunk
        if len(body) > limit:
            raise UpstreamTrouble("reply_too_large")
    return bytes(body)


def proxy_for(base: str) -> str | None:
    """The proxy that the environment names for the upstream; none for loopback, which no proxy could reach for us."""
    parts = urlsplit(base)
    host = parts.hostname or ""
    proxy = getproxies().get(parts.scheme)
    if not proxy or host == "localhost" or host.startswith("127.") or host == "::1" or proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
