"""Results go to standard output, everything else to standard error."""

import json
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """Where a command writes.

    With ``as_json`` standard output gets exactly one JSON object, from :meth:`result`, and
    :meth:`line` is silent.
    """

    as_json: bool = False
    quiet: bool = False

    def note(self, text: str = "") -> None:
        """Tell something about the work, unless the user wants quiet."""
        if not self.quiet:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def piece(self, text: str) -> None:
        """Write a part of a line of the result at once."""
        if not self.as_json:
            sys.stdout.write(text)
            sys.stdout.flush()

    def line(self, text: str = "") -> None:
        """Write one line of the result for people."""
        self.piece(text + "\n")

    def result(self, value: Mapping[str, Any]) -> None:
        """Write the result for programs."""
        if self.as_json:
            sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
            sys.stdout.flush()


def get_width() -> int:
    """Columns to write in: the terminal's, at most 100, and 80 in a log."""
    return min(shutil.get_terminal_size((80, 24)).columns, 100)


def wrap_paragraph(text: str, *, indent: str = "  ", max_lines: int | None = None) -> str:
    """Wrap a text that keeps its own line breaks; ``…`` marks what ``max_lines`` cuts."""
    lines: list[str] = []
    for line in text.strip().splitlines() or ["(nothing)"]:
        lines += textwrap.wrap(line, get_width() - len(indent)) or [""]
    if max_lines is not None and len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], "…"]
    return "\n".join((indent + line).rstrip() for line in lines)


def format_pairs(rows: Sequence[tuple[str, str]], *, gap: int = 2) -> str:
    """Two columns; the second is wrapped below itself."""
    margin = max((len(key) for key, _ in rows), default=0) + gap
    lines: list[str] = []
    for key, value in rows:
        wrapped = textwrap.wrap(value, max(get_width() - margin, 20), break_on_hyphens=False) or [""]
        lines.append(f"{key:<{margin}}{wrapped[0]}".rstrip())
        lines += [" " * margin + line for line in wrapped[1:]]
    return "\n".join(lines)
