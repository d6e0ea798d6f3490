"""Whether a model server's address is our own: such a stack would ask itself for ever."""

import ipaddress
import socket
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from orchestrator.embedded.process import EmbeddedError

DEFAULT_PORTS = {"http": 80, "https": 443}

Resolve = Callable[[str], Iterable[str]]


def resolve(host: str) -> list[str]:
    """The addresses of a host name; none when it cannot be looked up."""
    try:
        return [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        return []


def is_ourselves(url: str, *, host: str, port: int, resolve: Resolve = resolve) -> bool:
    """Whether `url` leads to the API that listens on `host` and `port`, under whatever name."""
    target = urlsplit(url)
    if (target.port or DEFAULT_PORTS.get(target.scheme)) != port or not target.hostname:
        return False
    if target.hostname == host:
        return True
    ours = {_plain(address) for address in (host, *resolve(host))}
    theirs = {_plain(address) for address in (target.hostname, *resolve(target.hostname))}
    return bool(ours & theirs) or (any(map(_local, ours)) and any(map(_local, theirs)))


def is_address(url: str) -> bool:
    """Whether a model server can be reached under `url`, as far as one can tell without asking it."""
    try:
        target = urlsplit(url)
        return target.scheme in DEFAULT_PORTS and bool(target.hostname) and target.port != 0
    except ValueError:
        return False


def refuse_ourselves(url: str | None, *, host: str, port: int) -> None:
    """Raise EmbeddedError when the model server would be this very server, or the address leads nowhere."""
    if url and not is_address(url):
        raise EmbeddedError("UPSTREAM_BASE_URL is not the address of a model server, like http://127.0.0.1:8000/v1.")
    if url and is_ourselves(url, host=host, port=port):
        raise EmbeddedError(
            f"UPSTREAM_BASE_URL ({url}) is this server itself. "
            "Set it to a model server, or unset it to use the built-in model."
        )


def _plain(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address.lower()
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)


def _local(address: str) -> bool:
    """Loopback, and "any address", which leads to loopback when it is connected to."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.is_loopback or parsed.is_unspecified
