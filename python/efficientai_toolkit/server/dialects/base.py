"""What parsers of a model's text hand on, and what they share."""

import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of the reasoning before the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """The name of a tool that is called; its arguments follow."""

    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the JSON arguments of the last call."""

    text: str


Delta = Text | Reasoning | CallStart | CallArguments


class Parser(Protocol):
    """Splits text that arrives in pieces; however it is cut, the deltas of one kind add up to the same."""

    def feed(self, text: str) -> list[Delta]:
        """Return what is certain after another piece."""
        ...

    def finish(self) -> list[Delta]:
        """Return the rest at the end of the text."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """A function that the model may call."""

    name: str
    parameters: Mapping[str, Any]
    """JSON schema of its arguments."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forced:
    """How an answer has to begin and go on so that it is a call."""

    prefix: str
    """Text that the answer begins with; it is put into the model's mouth."""
    schema: Mapping[str, Any] | None
    """JSON schema of the text after the prefix."""


class Dialect(Protocol):
    """The format of a family of models."""

    name: ClassVar[str]
    needs_special_tokens: ClassVar[bool]
    """Whether its marks are special tokens, which text is usually decoded without."""
    always_parses: ClassVar[bool]
    """Whether answers without tools have marks, too."""

    def open(self, names: Collection[str]) -> Parser:
        """Return a parser of an answer that may call the tools of these names."""
        ...

    def force(self, tools: Sequence[Tool]) -> Forced:
        """Return how an answer that calls one of ``tools`` begins."""
        ...

    def new_id(self) -> str:
        """Return an identifier of a call."""
        ...


def random_call_id() -> str:
    """Return an identifier as OpenAI's."""
    return f"call_{secrets.token_hex(12)}"


class PlainParser:
    """Everything is the answer."""

    def feed(self, text: str) -> list[Delta]:
        """Hand on a piece."""
        return [Text(text)] if text else []

    def finish(self) -> list[Delta]:
        """Nothing is held back."""
        return []


class Answer:
    """Text around tool calls, without the white space that separates it from them."""

    def __init__(self) -> None:
        self._space = ""
        self._follows_call = False

    def write(self, text: str) -> list[Delta]:
        """Hand on a piece but the white space at its end."""
        text = self._space + text
        if self._follows_call:
            text = text.lstrip()
        visible = text.rstrip()
        self._space = text[len(visible) :]
        if not visible:
            return []
        self._follows_call = False
        return [Text(visible)]

    def call(self) -> None:
        """Note that a call comes next."""
        self._space = ""
        self._follows_call = True

    def finish(self) -> list[Delta]:
        """Hand on the white space at the end, unless a call is before it."""
        return [Text(self._space)] if self._space and not self._follows_call else []


def find_mark(text: str, marks: Iterable[str]) -> tuple[int, str] | None:
    """Return the first mark in ``text`` with its position; of two at one position the longer."""
    found = [(at, -len(mark), mark) for mark in marks if (at := text.find(mark)) >= 0]
    if not found:
        return None
    at, _, mark = min(found)
    return at, mark


def count_held(text: str, marks: Iterable[str]) -> int:
    """Return how many characters at the end of ``text`` may begin a mark."""
    return max(
        (n for mark in marks for n in range(1, min(len(mark), len(text) + 1)) if text.endswith(mark[:n])),
        default=0,
    )


def call_schema(tools: Sequence[Tool], key: str) -> dict[str, Any]:
    """Return the schema of an object that names one of ``tools``, with its arguments under ``key``."""
    arms = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, key: dict(tool.parameters)},
            "required": ["name", key],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    return arms[0] if len(arms) == 1 else {"anyOf": arms}
