"""Identifiers in the original's form: a prefix that says what it names, then random characters of that kind's alphabet.

They are names, not an order: two objects of one second must be ordered by something else. Not secrets either: a key of
the project is what gives access.
"""

import os
import string
from functools import lru_cache
from typing import Literal

from orchestrator.echo import echo
from orchestrator.errors import InvalidRequest

Prefix = Literal[
    "asst_", "thread_", "msg_", "run_", "step_", "call_", "proj_", "key_", "file-", "upload_", "part_", "blob_", "evt_"
]

ALPHANUMERIC = string.ascii_letters + string.digits, 24
BASE58 = "".join(char for char in string.digits + string.ascii_letters if char not in "0OIl"), 22
HEX = "0123456789abcdef", 32
FORMS: dict[Prefix, tuple[str, int]] = {"file-": BASE58, "upload_": HEX, "part_": HEX, "blob_": HEX}


def new(prefix: Prefix) -> str:
    """A fresh id: `new("asst_")` gives `asst_` and 24 characters (143 bits of chance, so nobody checks for a twin)."""
    alphabet, length = FORMS.get(prefix, ALPHANUMERIC)
    table, unfair = _table(alphabet)
    drawn = b""
    while len(drawn) < length:
        drawn += os.urandom(2 * length).translate(table, unfair)
    return prefix + drawn[:length].decode()


@lru_cache
def _table(alphabet: str) -> tuple[bytes, bytes]:
    """What each byte of chance becomes, and the bytes that are thrown away: with them the first characters of the
    alphabet would come more often than the others.
    """
    fair = 256 // len(alphabet) * len(alphabet)
    return bytes(ord(alphabet[byte % len(alphabet)]) for byte in range(256)), bytes(range(fair, 256))


def complaint(param: str, prefix: Prefix, value: str) -> str | None:
    """Why `value` cannot be an id of this kind, in the original's words, or None when it may be one."""
    kind = prefix.rstrip("_-")
    if value.startswith(kind) and value.isprintable():
        return None
    return f"Invalid '{param}': '{echo(value, 64)}'. Expected an ID that begins with '{kind}'."


def check(param: str, prefix: Prefix, value: str) -> str:
    """`value`, if it begins with its prefix; otherwise InvalidRequest, before anything is looked up.

    A right prefix on an impossible id is no error here: such an object is simply not found.
    """
    message = complaint(param, prefix, value)
    if message is not None:
        raise InvalidRequest(message, param=param, code="invalid_value")
    return value
