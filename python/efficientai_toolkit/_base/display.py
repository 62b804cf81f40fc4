"""Short descriptions of results and configurations, as text and as HTML for notebooks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from html import escape
from os import PathLike, fspath
from reprlib import Repr
from typing import Any, cast

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlevel = 2
_MAX_ITEMS = 4


def shorten(value: object, *, depth: int = 2) -> str:
    """Return a short ``repr``: few digits, the length of long lists, and ``…`` below ``depth`` lists."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, PathLike):
        return repr(fspath(cast("PathLike[str]", value)))
    if isinstance(value, Mapping | list | tuple):
        return _shorten_items(cast("Mapping[object, object] | Sequence[object]", value), depth)
    return _SHORT.repr(value)


def _shorten_items(items: Mapping[object, object] | Sequence[object], depth: int) -> str:
    noun, brackets = ("entries", "{}") if isinstance(items, Mapping) else ("items", "[]")
    if len(items) > _MAX_ITEMS:
        return f"<{len(items)} {noun}>"
    if not depth:
        return brackets[0] + "…" + brackets[1]
    if isinstance(items, Mapping):
        shown = [f"{_SHORT.repr(key)}: {shorten(item, depth=depth - 1)}" for key, item in items.items()]
    else:
        shown = [shorten(item, depth=depth - 1) for item in items]
    return brackets[0] + ", ".join(shown) + brackets[1]


class Displayed:
    """Base class of dataclasses with a short ``repr`` and an HTML table.

    Subclasses are declared with ``repr=False``.
    """

    __slots__ = ()

    def _displayed(self) -> Iterable[tuple[str, object]]:
        """Return the names and values to show, by default all fields."""
        return [(f.name, getattr(self, f.name)) for f in fields(cast("Any", self))]

    def __repr__(self) -> str:
        """Return the class with its values, shortened."""
        values = ", ".join(f"{name}={shorten(value)}" for name, value in self._displayed())
        return f"{type(self).__name__}({values})"

    def _repr_html_(self) -> str:
        """Return a table for notebooks."""
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th>"
            f"<td style='text-align:left'>{escape(shorten(value))}</td></tr>"
            for name, value in self._displayed()
        )
        rows = rows or "<tr><td>(defaults)</td></tr>"
        return f"<table><caption>{escape(type(self).__name__)}</caption>{rows}</table>"
