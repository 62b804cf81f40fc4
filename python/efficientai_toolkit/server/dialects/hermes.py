"""Hermes and Qwen: ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``.

https://github.com/NousResearch/Hermes-Function-Calling
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

BEGIN, END = "<tool_call>", "</tool_call>"


class HermesParser:
    """Reads calls between tags."""

    def __init__(self) -> None:
        self._answer = Answer()
        self._held = ""
        self._call: JsonCall | None = None

    def feed(self, text: str) -> list[Delta]:
        """Return what is certain after another piece."""
        self._held += text
        deltas: list[Delta] = []
        while self._advance(deltas):
            pass
        return deltas

    def finish(self) -> list[Delta]:
        """Return the rest; a call that breaks off is a call if its name is known."""
        rest: list[Delta] = []
        if self._call is None:
            rest = self._answer.write(self._held)
        elif not self._call.is_called:
            rest = self._answer.write(BEGIN + self._call.raw + self._held)
        return [*rest, *self._answer.finish()]

    def _advance(self, deltas: list[Delta]) -> bool:
        if self._call is None:
            return self._read_text(deltas)
        if not self._call.is_done and not self._call.is_wrong:
            found, self._held = self._call.feed(self._held)
            if found:
                self._answer.call()
            deltas += found
        if not self._call.is_done and not self._call.is_wrong:
            return False
        # Some models forget the end.
        end = find_mark(self._held, [END, BEGIN])
        if end is None:
            return False
        at, mark = end
        after = at + len(END) if mark == END else at
        if self._call.is_wrong:
            deltas += self._answer.write(BEGIN + self._call.raw + self._held[:after])
        self._held = self._held[after:]
        self._call = None
        return bool(self._held)

    def _read_text(self, deltas: list[Delta]) -> bool:
        begin = find_mark(self._held, [BEGIN])
        ready = begin[0] if begin else len(self._held) - count_held(self._held, [BEGIN])
        deltas += self._answer.write(self._held[:ready])
        self._held = self._held[ready:]
        if begin is None:
            return False
        self._held = self._held[len(BEGIN) :]
        self._call = JsonCall()
        return bool(self._held)


class Hermes:
    """The dialect."""

    name: ClassVar[str] = "hermes"
    needs_special_tokens: ClassVar[bool] = False
    always_parses: ClassVar[bool] = False

    def open(self, names: Collection[str]) -> Parser:  # noqa: ARG002 (the tags tell calls)
        """Return a parser."""
        return HermesParser()

    def force(self, tools: Sequence[Tool]) -> Forced:
        """Begin a call; with one tool, its arguments."""
        if len(tools) == 1:
            prefix = f'{BEGIN}\n{{"name": "{tools[0].name}", "arguments": '
            return Forced(prefix=prefix, schema=tools[0].parameters)
        return Forced(prefix=f"{BEGIN}\n", schema=call_schema(tools, "arguments"))

    def new_id(self) -> str:
        """Return an identifier of a call."""
        return random_call_id()
