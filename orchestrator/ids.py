"""Identifiers in the original's form: a prefix that says what it names, then 24 random letters and digits.

They are names, not an order: two objects of one second must be ordered by something else. Not secrets either: a key of
the project is what gives access.
"""

import secrets
import string
from typing import Literal

from orchestrator.echo import echo
from orchestrator.errors import InvalidRequest

Prefix = Literal["asst_", "thread_", "msg_", "run_", "step_", "call_", "proj_", "key_"]

ALPHABET = string.ascii_letters + string.digits
LENGTH = 24


def new(prefix: Prefix) -> str:
    """A fresh id: `new("asst_")` gives `asst_` and 24 characters (143 bits of chance, so nobody checks for a twin)."""
    return f"{prefix}{''.join(secrets.choice(ALPHABET) for _ in range(LENGTH))}"


def complaint(param: str, prefix: Prefix, value: str) -> str | None:
    """Why `value` cannot be an id of this kind, in the original's words, or None when it may be one."""
    kind = prefix.removesuffix("_")
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
