"""Draws the terminal of the README: runs a command and saves what it prints as SVG.

``uv run python docs/record.py docs/images/train.svg efficientai-toolkit lora-finetuning-mlx:train``
"""

from __future__ import annotations

import subprocess
import sys
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 104
"""As wide as the longest line that is shown: a picture has no line breaks of its own."""

HEAD, TAIL = 9, 20
"""Lines that are shown of long outputs, from the beginning and from the end."""

LAST = "try it"
"""Where the picture ends: what follows is to be copied, which a picture does not allow."""


def main() -> int:
    """Run the command, and draw it with its output."""
    target, *command = sys.argv[1:]
    shown = " ".join(command)
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    # A bar writes over its line.
    lines = [line.rpartition("\r")[2] for line in run.stdout.rstrip().splitlines()]
    if LAST in lines:
        lines = "\n".join(lines[: lines.index(LAST)]).rstrip().splitlines()
    if len(lines) > HEAD + TAIL:
        lines = [*lines[:HEAD], "…", *lines[-TAIL:]]
    console = Console(record=True, width=WIDTH, file=StringIO(), highlight=False)
    console.print(Text(f"$ {shown}", style="bold green"))
    for line in lines:
        console.print(Text.from_ansi(line))
    Path(target).write_text(console.export_svg(title=shown), encoding="utf-8")
    return run.returncode


if __name__ == "__main__":
    sys.exit(main())
