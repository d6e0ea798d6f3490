"""Addresses of Postgres and Redis as people write them: whether all readers of an address understand the same by it.

A password with a slash in it, not encoded, cuts the address at another place. What then cannot be read is quoted by
readers' errors, and is a piece of the password: what an error about an address says must not be shown.
"""

from typing import Final
from urllib.parse import urlsplit

UNREADABLE: Final = (
    "cannot be read: what is special in a user or password is to be percent-encoded (/ as %2F, @ as %40)"
)


def is_readable(url: str) -> bool:
    """Whether the parts of an address are where they seem to be. An empty one is: there is nothing in it."""
    try:
        parts = urlsplit(url)
        if "@" not in f"{parts.path}{parts.query}{parts.fragment}" or ":" not in parts.netloc:
            return True
        _ = parts.port
    except ValueError:
        return False
    return "@" in parts.netloc  # else what looks like a host and its port may be a name and the beginning of a password


def told(error: Exception) -> str:
    """What may be shown of an error in reaching what is at an address."""
    return type(error).__name__ if isinstance(error, ValueError) else str(error) or type(error).__name__
