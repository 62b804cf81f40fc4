"""LFM2: ``<|tool_call_start|>[name(key="value", …), …]<|tool_call_end|>``, calls as Python writes them.

https://docs.liquid.ai/lfm/key-concepts/tool-use
"""

import json
import re
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
    random_call_id,
)
from efficientai_toolkit.server.dialects.json_call import JsonCall
from efficientai_toolkit.server.dialects.python_literal import to_json

BEGIN, END = "<|tool_call_start|>", "<|tool_call_end|>"
_KEYWORD = re.compile(r"\s*(\w+)\s*=(?!=)")
_NAME = re.compile(r"[\w.-]*")


class _PythonSpan:
    """Finds the end of an argument: a comma or parenthesis outside of brackets and strings."""

    def __init__(self) -> None:
        self.is_done = False
        self._depth = 0
        self._quote = ""
        self._escaped = False

    def feed(self, text: str) -> int:
        for at, char in enumerate(text):
            if self._quote:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == self._quote:
                    self._quote = ""
            elif char in "'\"":
                self._quote = char
            elif not self._depth and char in ",)":
                self.is_done = True
                return at
            elif char in "([{":
                self._depth += 1
            elif char in ")]}":
                self._depth = max(self._depth - 1, 0)
        return len(text)


class Lfm2Parser:
    """Reads calls between the marks, in JSON too."""

    def __init__(self) -> None:
        self._answer = Answer()
        self._held = ""
        self._read: Callable[[list[Delta]], bool] = self._read_text
        self._call = JsonCall()
        self._span = _PythonSpan()
        self._argument = ""
        self._count = 0

    def feed(self, text: str) -> list[Delta]:
        """Return what is certain after another piece."""
        self._held += text
        deltas: list[Delta] = []
        while self._held and self._read(deltas):
            pass
        return deltas

    def finish(self) -> list[Delta]:
        """Return the rest of the text; a call that breaks off keeps the arguments that were complete."""
        rest = self._answer.write(self._held) if self._read == self._read_text else []
        if self._read == self._read_argument:
            rest.append(CallArguments("}" if self._count else "{}"))
        return [*rest, *self._answer.finish()]

    def _read_text(self, deltas: list[Delta]) -> bool:
        begin = find_mark(self._held, [BEGIN])
        ready = begin[0] if begin else len(self._held) - count_held(self._held, [BEGIN])
        deltas += self._answer.write(self._held[:ready])
        self._held = self._held[ready:]
        if begin is None:
            return False
        self._held = self._held.removeprefix(BEGIN)
        self._read = self._read_list
        return True

    def _read_list(self, deltas: list[Delta]) -> bool:
        """Read what stands between calls."""
        self._held = self._held.lstrip("[], \t\r\n")
        if not self._held or (END.startswith(self._held) and self._held != END):
            return False
        if self._held.startswith(END):
            self._held = self._held.removeprefix(END)
            self._read = self._read_text
        elif self._held[0] == "{":
            self._call = JsonCall()
            self._read = self._read_object
        else:
            return self._read_name(deltas)
        return True

    def _read_name(self, deltas: list[Delta]) -> bool:
        match = _NAME.match(self._held)
        name = match[0] if match else ""
        if len(name) == len(self._held):
            return False
        if not name or self._held[len(name)] != "(":
            # No call: skipped up to the next character that may begin one.
            self._held = self._held[max(len(name), 1) :]
            return True
        deltas.append(CallStart(name))
        self._answer.call()
        self._held = self._held[len(name) + 1 :]
        self._span, self._argument, self._count = _PythonSpan(), "", 0
        self._read = self._read_argument
        return True

    def _read_argument(self, deltas: list[Delta]) -> bool:
        read = self._span.feed(self._held)
        self._argument += self._held[:read]
        self._held = self._held[read:]
        if not self._span.is_done:
            return False
        keyword = _KEYWORD.match(self._argument)
        # The names of positional arguments are not known here.
        if keyword is not None:
            separator = ", " if self._count else "{"
            value = to_json(self._argument[keyword.end() :])
            deltas.append(CallArguments(f"{separator}{json.dumps(keyword[1])}: {value}"))
            self._count += 1
        if self._held[0] == ")":
            deltas.append(CallArguments("}" if self._count else "{}"))
            self._read = self._read_list
        self._held = self._held[1:]
        self._span, self._argument = _PythonSpan(), ""
        return True

    def _read_object(self, deltas: list[Delta]) -> bool:
        found, self._held = self._call.feed(self._held)
        if found:
            self._answer.call()
        deltas += found
        if self._call.is_done or self._call.is_wrong:
            self._held = self._held[1:] if self._call.is_wrong else self._held
            self._read = self._read_list
            return True
        return False


class Lfm2:
    """The dialect."""

    name: ClassVar[str] = "lfm2"
    needs_special_tokens: ClassVar[bool] = True
    always_parses: ClassVar[bool] = False

    def open(self, names: Collection[str]) -> Parser:  # noqa: ARG002 (the marks tell calls)
        """Return a parser."""
        return Lfm2Parser()

    def force(self, tools: Sequence[Tool]) -> Forced:
        """Begin a call in JSON, which these models know too and a schema can constrain."""
        if len(tools) == 1:
            prefix = f'{BEGIN}[{{"name": "{tools[0].name}", "arguments": '
            return Forced(prefix=prefix, schema=tools[0].parameters)
        return Forced(prefix=f"{BEGIN}[", schema=call_schema(tools, "arguments"))

    def new_id(self) -> str:
        """Return an identifier of a call."""
        return random_call_id()
