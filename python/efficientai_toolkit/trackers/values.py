"""Values of files that others may have changed."""

from collections.abc import Iterable
from typing import Any, cast


def as_dict(value: object) -> dict[str, Any]:
    """Return an object of JSON; anything else is empty."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def printable(text: str) -> str:
    """Return text without characters that would control a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def as_list(value: object) -> list[Any]:
    """Return a list of JSON; anything else is empty."""
    return [*cast("Iterable[Any]", value)] if isinstance(value, list) else []
