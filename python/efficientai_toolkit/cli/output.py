"""Output of commands: results on standard output, everything else on standard error."""

import json
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """Output of a command.

    With ``as_json`` standard output receives exactly one JSON object, from :meth:`result`.
    """

    as_json: bool = False
    quiet: bool = False

    def note(self, text: str = "") -> None:
        """Write a message about the progress, unless ``quiet``."""
        if not self.quiet:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def piece(self, text: str) -> None:
        """Write and flush part of a line of the text result."""
        if not self.as_json:
            sys.stdout.write(text)
            sys.stdout.flush()

    def line(self, text: str = "") -> None:
        """Write a line of the text result."""
        self.piece(text + "\n")

    def result(self, value: Mapping[str, Any]) -> None:
        """Write the JSON result."""
        if self.as_json:
            sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
            sys.stdout.flush()


def get_width() -> int:
    """Return the width of the output: that of the terminal, at most 100, or 80 without a terminal."""
    return min(shutil.get_terminal_size((80, 24)).columns, 100)


def wrap_paragraph(text: str, *, indent: str = "  ", max_lines: int | None = None) -> str:
    """Wrap text, keeping its line breaks; ``…`` marks lines cut by ``max_lines``."""
    lines: list[str] = []
    for line in text.strip().splitlines() or ["(nothing)"]:
        lines += textwrap.wrap(line, get_width() - len(indent)) or [""]
    if max_lines is not None and len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], "…"]
    return "\n".join((indent + line).rstrip() for line in lines)


def format_pairs(rows: Sequence[tuple[str, str]], *, gap: int = 2) -> str:
    """Format pairs as two columns; the second one is wrapped."""
    margin = max((len(key) for key, _ in rows), default=0) + gap
    lines: list[str] = []
    for key, value in rows:
        wrapped = textwrap.wrap(value, max(get_width() - margin, 20), break_on_hyphens=False) or [""]
        lines.append(f"{key:<{margin}}{wrapped[0]}".rstrip())
        lines += [" " * margin + line for line in wrapped[1:]]
    return "\n".join(lines)
