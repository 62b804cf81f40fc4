"""Tool calls written as JSON objects, read while they arrive.

Only counters follow the nesting, so that no depth can exhaust the stack.
"""

import json
from collections.abc import Callable, Collection

from efficientai_toolkit.server.dialects.base import CallArguments, CallStart, Delta

_SPACE = " \t\r\n"
_ARGUMENTS = ("arguments", "parameters")


class JsonSpan:
    """Finds the end of a JSON value, without checking what is in it."""

    def __init__(self) -> None:
        self.is_done = False
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._started = False

    def feed(self, text: str) -> int:  # noqa: C901
        """Return how many characters of ``text`` belong to the value."""
        for at, char in enumerate(text):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == '"':
                    self._in_string = False
            elif char == '"':
                self._in_string = self._started = True
                continue
            elif char in "{[":
                self._depth += 1
                self._started = True
            elif char in "}]" and self._depth:
                self._depth -= 1
            elif not self._depth and (char in ",}]" or (char in _SPACE and self._started)):
                # The end of a number or a word, which the next character tells.
                self.is_done = True
                return at
            else:
                self._started = self._started or char not in _SPACE
                continue
            if not self._depth and not self._in_string:
                self.is_done = True
                return at + 1
        return len(text)


class JsonCall:
    """Reads one object ``{"name": …, "arguments": {…}}``; ``parameters`` is understood as well.

    Parameters
    ----------
    names
        Names that are calls; ``None`` for all.
    """

    def __init__(self, names: Collection[str] | None = None) -> None:
        self.is_done = False
        self.is_wrong = False
        """Whether the text is no call; ``raw`` has then to be shown."""
        self.raw = ""
        """The text so far, while it may turn out to be wrong."""
        self.is_called = False
        """Whether a call was handed on."""
        self._names = names
        self._arguments = ""
        self._has_arguments = False
        self._state: Callable[[str, list[Delta]], int] = self._open
        self._key: str | None = None
        self._span = JsonSpan()
        self._value = ""

    def feed(self, text: str) -> tuple[list[Delta], str]:
        """Return what is certain, and the text after the object; all of it is read before."""
        deltas: list[Delta] = []
        while text and not self.is_done and not self.is_wrong:
            read = self._state(text, deltas)
            if not self.is_called:
                self.raw += text[:read]
            text = text[read:]
        if self.is_done and not self.is_called:
            self.is_wrong = True
        return deltas, text

    def _open(self, text: str, _: list[Delta]) -> int:
        if text[0] == "{":
            self._state = self._next_key
        elif text[0] not in _SPACE:
            self.is_wrong = True
            return 0
        return 1

    def _next_key(self, text: str, deltas: list[Delta]) -> int:
        if text[0] == "}":
            self.is_done = True
            if self.is_called and not self._has_arguments:
                deltas.append(CallArguments("{}"))
        elif text[0] == '"':
            self._span, self._value = JsonSpan(), ""
            self._state = self._read_key
            return 0
        elif text[0] not in _SPACE + ",":
            self._give_up()
            return 0
        return 1

    def _colon(self, text: str, _: list[Delta]) -> int:
        if text[0] == ":":
            self._span, self._value = JsonSpan(), ""
            self._state = self._read_value
        elif text[0] not in _SPACE:
            self._give_up()
            return 0
        return 1

    def _read_key(self, text: str, _: list[Delta]) -> int:
        read = self._span.feed(text)
        self._value += text[:read]
        if self._span.is_done:
            key = _parse(self._value)
            self._key = key if isinstance(key, str) else None
            self._state = self._colon
        return read

    def _read_value(self, text: str, deltas: list[Delta]) -> int:
        read = self._span.feed(text)
        piece = text[:read] if self._value else text[:read].lstrip(_SPACE)
        self._value += piece
        if self._key in _ARGUMENTS and self._value.startswith("{"):
            self._send(piece, deltas)
        if self._span.is_done:
            self._end_value(deltas)
        return read

    def _end_value(self, deltas: list[Delta]) -> None:
        self._state = self._next_key
        if self._key == "name":
            name = _parse(self._value)
            if not isinstance(name, str) or not name or (self._names is not None and name not in self._names):
                self._give_up()
            elif not self.is_called:
                self.is_called = True
                deltas.append(CallStart(name))
                if self._arguments:
                    deltas.append(CallArguments(self._arguments))
        elif self._key in _ARGUMENTS and not self._value.startswith("{"):
            # Some models write the arguments as a string of JSON.
            inner = _parse(self._value)
            text = inner if isinstance(inner, str) and isinstance(_parse(inner), dict) else self._value
            self._send("{}" if inner in (None, "") else text, deltas)

    def _send(self, piece: str, deltas: list[Delta]) -> None:
        self._has_arguments = True
        if self.is_called:
            deltas.append(CallArguments(piece))
        else:
            self._arguments += piece

    def _give_up(self) -> None:
        # What was begun as a call stays one, as far as it goes.
        self.is_wrong = not self.is_called
        self.is_done = True


def _parse(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
