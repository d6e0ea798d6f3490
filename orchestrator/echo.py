"""How a client's own value is repeated in an error text: short, and always something that UTF-8 can carry.

Values come unchecked: a lone surrogate (JSON `"\\ud800"`) would break the encoding of the very answer that refuses it.
"""

LIMIT = 100


def echo(value: str, limit: int = LIMIT) -> str:
    """`value` cut to `limit` characters, with what is not Unicode and control characters shown as escapes."""
    cut = value if len(value) <= limit else f"{value[: limit - 1]}…"
    return "".join(_escaped(char) for char in cut)


def _escaped(char: str) -> str:
    if char.isprintable() and not "\ud800" <= char <= "\udfff":
        return char
    return char.encode("unicode_escape").decode("ascii")
