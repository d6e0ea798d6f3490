"""Reads the router's JSON while it is being decoded: `{"calls": [{"function": "name", "arguments": {…}}, …]}`.

The grammar guarantees that form, so this is no parser: it follows strings and brackets, notices names, and passes the
text of arguments on untouched, piece by piece, as it comes.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class CallBegins:
    """A call of the function `name`; its arguments follow."""

    name: str


@dataclass(frozen=True)
class Arguments:
    """The next piece of the JSON text of the arguments."""

    text: str


@dataclass(frozen=True)
class CallEnds:
    """The arguments are complete."""


Signal = CallBegins | Arguments | CallEnds


@dataclass
class CallReader:
    """Feed it the text as it comes; it tells what the text means."""

    _string: list[str] | None = None  # the string that is being read, outside of arguments
    _last: str = ""
    _key: str = ""
    _depth: int = 0  # of brackets within arguments; 0 outside
    _quoted: bool = False  # within a string within arguments
    _escaped: bool = False
    _signals: list[Signal] = field(default_factory=list)

    def feed(self, text: str) -> list[Signal]:
        """What `text` adds."""
        self._signals = []
        start = 0 if self._depth else None
        for position, character in enumerate(text):
            if not self._depth:
                self._outside(character)
                start = position if self._depth else None
            elif self._inside(character):
                self._signals += [Arguments(text[start : position + 1]), CallEnds()]
                start = None
        if start is not None and text[start:]:
            self._signals.append(Arguments(text[start:]))
        return self._signals

    def _outside(self, character: str) -> None:
        if self._string is not None:
            if character == '"':
                self._last, self._string = "".join(self._string), None
                if self._key == "function":
                    self._signals.append(CallBegins(self._last))
                    self._key = ""
            else:
                self._string.append(character)
        elif character == '"':
            self._string = []
        elif character == ":":
            self._key = self._last
        elif character == "{" and self._key == "arguments":
            self._depth, self._key = 1, ""

    def _inside(self, character: str) -> bool:
        """Whether this character ends the arguments."""
        if self._escaped:
            self._escaped = False
        elif self._quoted:
            self._escaped = character == "\\"
            self._quoted = character != '"'
        elif character == '"':
            self._quoted = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
        return not self._depth
