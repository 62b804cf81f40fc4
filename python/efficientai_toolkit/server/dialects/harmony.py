"""Harmony, the format of gpt-oss: messages with a channel, each ``<|channel|>…<|message|>…<|end|>``.

``analysis`` is reasoning, ``final`` the answer, and a message ``to=functions.NAME`` a call.

https://cookbook.openai.com/articles/openai-harmony
"""

import re
from collections.abc import Collection, Sequence
from typing import ClassVar

from efficientai_toolkit.server.dialects.base import (
    CallArguments,
    CallStart,
    Delta,
    Forced,
    Parser,
    Reasoning,
    Text,
    Tool,
    count_held,
    find_mark,
    random_call_id,
)

_START, _CHANNEL, _MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>", _START, _CHANNEL)
_RECIPIENT = re.compile(r"to=functions\.([\w.-]+)")
_CHANNEL_NAME = re.compile(re.escape(_CHANNEL) + r"\s*(\w+)")


class HarmonyParser:
    """Reads messages; the answer begins after ``<|start|>assistant``, which ends the prompt."""

    def __init__(self) -> None:
        self._held = ""
        self._body: type[Text | Reasoning | CallArguments] | None = None
        """What the message consists of; ``None`` in its header."""
        self._is_empty = True
        """Whether the message has no text yet."""

    def feed(self, text: str) -> list[Delta]:
        """Return what is certain after another piece."""
        self._held += text
        deltas: list[Delta] = []
        while self._held and (self._read_header(deltas) if self._body is None else self._read_body(deltas)):
            pass
        return deltas

    def finish(self) -> list[Delta]:
        """Return the rest; text without any mark is the answer."""
        held, self._held = self._held, ""
        if self._body is None:
            return [Text(held)] if held.strip() and "<|" not in held else []
        return [*self._write(held), *self._close()]

    def _read_header(self, deltas: list[Delta]) -> bool:
        found = find_mark(self._held, [_MESSAGE])
        if found is None:
            return False
        header = self._held[: found[0]]
        self._held = self._held[found[0] + len(_MESSAGE) :]
        channel = _CHANNEL_NAME.search(header)
        recipient = _RECIPIENT.search(header)
        self._is_empty = True
        if recipient is not None:
            deltas.append(CallStart(recipient[1]))
            self._body = CallArguments
        else:
            self._body = Reasoning if channel is not None and channel[1] == "analysis" else Text
        return True

    def _read_body(self, deltas: list[Delta]) -> bool:
        end = find_mark(self._held, _ENDS)
        ready = end[0] if end else len(self._held) - count_held(self._held, _ENDS)
        deltas += self._write(self._held[:ready])
        self._held = self._held[ready:]
        if end is None:
            return False
        deltas += self._close()
        # A new message without an end before it still has its header.
        self._held = self._held if end[1] in {_START, _CHANNEL} else self._held.removeprefix(end[1])
        self._body = None
        return True

    def _write(self, text: str) -> list[Delta]:
        if not text or self._body is None:
            return []
        self._is_empty = False
        return [self._body(text)]

    def _close(self) -> list[Delta]:
        return [CallArguments("{}")] if self._body is CallArguments and self._is_empty else []


class Harmony:
    """The dialect."""

    name: ClassVar[str] = "harmony"
    needs_special_tokens: ClassVar[bool] = True
    always_parses: ClassVar[bool] = True

    def open(self, names: Collection[str]) -> Parser:  # noqa: ARG002 (the recipient tells calls)
        """Return a parser."""
        return HarmonyParser()

    def force(self, tools: Sequence[Tool]) -> Forced:
        """Begin a message to a tool; with several, the model writes which."""
        if len(tools) == 1:
            prefix = f"{_CHANNEL}commentary to=functions.{tools[0].name} <|constrain|>json{_MESSAGE}"
            return Forced(prefix=prefix, schema=tools[0].parameters)
        return Forced(prefix=f"{_CHANNEL}commentary to=functions.", schema=None)

    def new_id(self) -> str:
        """Return an identifier of a call."""
        return random_call_id()
