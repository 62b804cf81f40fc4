"""Files that readers never see half-written."""

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_INCHES = (7, 4)


def write_text(path: Path, text: str) -> None:
    """Write a file at once: readers see the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_json(path: Path, value: object) -> None:
    """Write a value for programs and people; what JSON does not know, such as paths, becomes text."""
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table for spreadsheets."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    write_text(path, text.getvalue())


def new_figure(columns: int = 1) -> tuple[Any, Any]:
    """A figure that no window shows, and its axes; an array of them where there are several columns."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = _INCHES
    figure: Any = Figure(figsize=(max(width, 4 * columns), height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns)


def write_figure(path: Path, figure: Any) -> None:
    """Write a figure as PNG."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    figure.savefig(temporary, format="png", dpi=150)
    temporary.replace(path)
