"""Llama 3: an answer that is ``{"name": …, "parameters": {…}}``, or several with semicolons between them.

https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1/
"""

from collections.abc import Collection, Sequence
from typing import ClassVar

from efficientai_toolkit.server.dialects.base import (
    Answer,
    Delta,
    Forced,
    Parser,
    Tool,
    call_schema,
    count_held,
    find_mark,
    random_call_id,
)
from efficientai_toolkit.server.dialects.json_call import JsonCall

_TAG = "<|python_tag|>"


class LlamaParser:
    """Reads calls at the beginning of the answer, and after the tag.

    Parameters
    ----------
    names
        Names of the tools: other objects are the answer itself.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._answer = Answer()
        self._names = names
        self._held = ""
        self._call: JsonCall | None = None
        self._may_begin = True
        """Whether an object here is a call."""
        self._follows_call = False

    def feed(self, text: str) -> list[Delta]:
        """Return what is certain after another piece."""
        self._held += text
        deltas: list[Delta] = []
        while self._held and self._advance(deltas):
            pass
        return deltas

    def finish(self) -> list[Delta]:
        """Return the rest; a call that breaks off is a call if its name is known."""
        raw = self._call.raw if self._call is not None and not self._call.is_called else ""
        rest = self._answer.write(raw + self._held)
        return [*rest, *self._answer.finish()]

    def _advance(self, deltas: list[Delta]) -> bool:
        if self._call is not None:
            return self._read_call(self._call, deltas)
        if self._may_begin:
            return self._begin()
        tag = find_mark(self._held, [_TAG])
        ready = tag[0] if tag else len(self._held) - count_held(self._held, [_TAG])
        deltas += self._answer.write(self._held[:ready])
        self._held = self._held[ready:].removeprefix(_TAG)
        self._may_begin = tag is not None
        return tag is not None

    def _begin(self) -> bool:
        # Semicolons stand between calls only.
        start = self._held.lstrip(" \t\r\n;" if self._follows_call else " \t\r\n")
        if not start or (_TAG.startswith(start) and start != _TAG):
            return False
        if start.startswith(_TAG):
            self._held = start.removeprefix(_TAG)
        elif start[0] == "{":
            self._held, self._call = start, JsonCall(self._names)
        else:
            self._may_begin = False
            self._held = start if self._follows_call else self._held
        return True

    def _read_call(self, call: JsonCall, deltas: list[Delta]) -> bool:
        found, self._held = call.feed(self._held)
        if found:
            self._answer.call()
        deltas += found
        if call.is_wrong:
            deltas += self._answer.write(call.raw)
            self._may_begin = False
        if call.is_done or call.is_wrong:
            self._call = None
            self._follows_call = not call.is_wrong
            return True
        return False


class Llama:
    """The dialect."""

    name: ClassVar[str] = "llama"
    needs_special_tokens: ClassVar[bool] = True
    always_parses: ClassVar[bool] = False

    def open(self, names: Collection[str]) -> Parser:
        """Return a parser."""
        return LlamaParser(names)

    def force(self, tools: Sequence[Tool]) -> Forced:
        """Begin a call; with one tool, its parameters."""
        if len(tools) == 1:
            return Forced(prefix=f'{{"name": "{tools[0].name}", "parameters": ', schema=tools[0].parameters)
        return Forced(prefix="", schema=call_schema(tools, "parameters"))

    def new_id(self) -> str:
        """Return an identifier of a call."""
        return random_call_id()
