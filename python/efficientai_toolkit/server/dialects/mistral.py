"""Mistral: ``[TOOL_CALLS][{"name": …, "arguments": {…}}]``, or ``[TOOL_CALLS]name[ARGS]{…}`` of newer models.

https://docs.mistral.ai/cookbooks/concept-deep-dive-tokenization-tool_calling
"""

import secrets
from collections.abc import Callable, Collection, Sequence
from typing import ClassVar

from efficientai_toolkit.server.dialects.base import (
    Answer,
    CallArguments,
    CallStart,
    Delta,
    Forced,
    Parser,
    Tool,
    call_schema,
    count_held,
    find_mark,
)
from efficientai_toolkit.server.dialects.json_call import JsonCall, JsonSpan

_CALLS, _ARGS, _ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_ID_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_ID_LENGTH = 9
"""What the chat templates of this family ask for."""


class MistralParser:
    """Reads both forms."""

    def __init__(self) -> None:
        self._answer = Answer()
        self._held = ""
        self._read: Callable[[list[Delta]], bool] = self._read_text
        self._call = JsonCall()
        self._span = JsonSpan()

    def feed(self, text: str) -> list[Delta]:
        """Return what is certain after another piece."""
        self._held += text
        deltas: list[Delta] = []
        while self._held and self._read(deltas):
            pass
        return deltas

    def finish(self) -> list[Delta]:
        """Return the rest; a call that breaks off is a call if its name is known."""
        rest: list[Delta] = []
        if self._read == self._read_text:
            rest = self._answer.write(self._held)
        elif self._read == self._read_object and not self._call.is_called:
            rest = self._answer.write(_CALLS + self._call.raw + self._held)
        elif self._read in {self._begin, self._read_name} and self._held:
            rest = self._answer.write(_CALLS + self._held)
        return [*rest, *self._answer.finish()]

    def _read_text(self, deltas: list[Delta]) -> bool:
        found = find_mark(self._held, [_CALLS])
        ready = found[0] if found else len(self._held) - count_held(self._held, [_CALLS])
        deltas += self._answer.write(self._held[:ready])
        self._held = self._held[ready:]
        if found is None:
            return False
        self._held = self._held.removeprefix(_CALLS)
        self._read = self._begin
        return True

    def _begin(self, deltas: list[Delta]) -> bool:
        """Tell the forms apart by the first characters."""
        start = self._held.lstrip()
        inner = start.removeprefix("[").lstrip()
        if not inner:
            return False
        if inner[0] == "{":
            self._held = inner
            self._call = JsonCall()
            self._read = self._read_object
        elif start[0] == "[":
            deltas += self._answer.write(_CALLS)
            self._read = self._read_text
        else:
            self._held = start
            self._read = self._read_name
        return True

    def _read_object(self, deltas: list[Delta]) -> bool:
        found, self._held = self._call.feed(self._held)
        if found:
            self._answer.call()
        deltas += found
        if self._call.is_wrong:
            deltas += self._answer.write(_CALLS + self._call.raw)
            self._read = self._read_text
        elif self._call.is_done:
            self._read = self._read_separator
        return self._read != self._read_object

    def _read_separator(self, _: list[Delta]) -> bool:
        self._held = self._held.lstrip(", \t\r\n")
        if not self._held:
            return False
        if self._held[0] == "{":
            self._call = JsonCall()
            self._read = self._read_object
        else:
            self._held = self._held.removeprefix("]")
            self._read = self._read_text
        return True

    def _read_name(self, deltas: list[Delta]) -> bool:
        found = find_mark(self._held, [_ARGS, _ID, "{"])
        if found is None:
            return False
        at, mark = found
        if mark == _ID:
            after = find_mark(self._held, [_ARGS, "{"])
            if after is None:
                return False
            mark_at, mark = after
        else:
            mark_at = at
        deltas.append(CallStart(self._held[:at].strip()))
        self._answer.call()
        self._held = self._held[mark_at:].removeprefix(_ARGS)
        self._span = JsonSpan()
        self._read = self._read_arguments
        return True

    def _read_arguments(self, deltas: list[Delta]) -> bool:
        read = self._span.feed(self._held)
        if read:
            deltas.append(CallArguments(self._held[:read]))
        self._held = self._held[read:]
        if self._span.is_done:
            self._read = self._read_text
        return self._span.is_done


class Mistral:
    """The dialect.

    Parameters
    ----------
    has_args
        Whether the models write the newer form.
    """

    name: ClassVar[str] = "mistral"
    needs_special_tokens: ClassVar[bool] = True
    always_parses: ClassVar[bool] = False

    def __init__(self, *, has_args: bool = False) -> None:
        self._has_args = has_args

    def open(self, names: Collection[str]) -> Parser:  # noqa: ARG002 (the mark tells calls)
        """Return a parser."""
        return MistralParser()

    def force(self, tools: Sequence[Tool]) -> Forced:
        """Begin a call; with one tool, its arguments."""
        if len(tools) > 1:
            return Forced(prefix=f"{_CALLS}[", schema=call_schema(tools, "arguments"))
        name, schema = tools[0].name, tools[0].parameters
        if self._has_args:
            return Forced(prefix=f"{_CALLS}{name}{_ARGS}", schema=schema)
        return Forced(prefix=f'{_CALLS}[{{"name": "{name}", "arguments": ', schema=schema)

    def new_id(self) -> str:
        """Return an identifier of a call."""
        return "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_LENGTH))
