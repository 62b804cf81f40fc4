"""Atomic file output: readers never see a partially written file."""

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_INCHES = (7, 4)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON; unsupported types such as paths are converted to strings."""
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    write_text(path, text.getvalue())


def new_figure(columns: int = 1) -> tuple[Any, Any]:
    """Create a figure without a window; return it with its axes, an array if ``columns > 1``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = _INCHES
    figure: Any = Figure(figsize=(max(width, 4 * columns), height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns)


def write_figure(path: Path, figure: Any) -> None:
    """Write a figure as a PNG file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    figure.savefig(temporary, format="png", dpi=150)
    temporary.replace(path)
