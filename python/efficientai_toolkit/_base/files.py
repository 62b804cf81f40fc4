"""Atomic file output: readers never see a partially written file, and symbolic links are never followed."""

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from efficientai_toolkit.exceptions import TrainingError

_INCHES = (7, 4)

_UNFINISHED = ".efficientai-tmp"
"""Ending of temporary names, the same as the engine's."""


def replace_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace a file atomically by what ``write`` puts into the binary file it is given.

    The folder is created if it is missing. On any error the old file is left unchanged.
    """
    temporary = path.with_name(f".{path.name}{_UNFINISHED}")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Left over from a process that was killed, or a link that must not be followed.
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("xb") as file:
            write(file)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def replace_folder(path: Path, fill: Callable[[Path], object]) -> None:
    """Replace a folder, or nothing, by what ``fill`` puts into the empty folder it is given.

    On any error the old folder is left unchanged.
    """
    temporary = path.with_name(f".{path.name}{_UNFINISHED}")
    old = path.with_name(f".{path.name}.old{_UNFINISHED}")
    for left in (temporary, old):
        _remove(left)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        temporary.mkdir()
        fill(temporary)
        # A folder that is not empty cannot be replaced in one step.
        if path.exists():
            path.replace(old)
        temporary.replace(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.replace(path)
        raise
    finally:
        for left in (temporary, old):
            _remove(left)


def _remove(path: Path) -> None:
    """Remove a folder of ours; of a link, the link alone."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    replace_file(path, lambda file: file.write(text.encode()))


def refuse_link(path: Path) -> None:
    """Check that there is no symbolic link where a file or folder of ours belongs.

    Raises
    ------
    TrainingError
        If there is one.
    """
    if path.is_symlink():
        message = f"{path} is a symbolic link, which is not followed; remove it or choose another output"
        raise TrainingError(message)


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


def new_figure(columns: int = 1, *, height: float = _INCHES[1]) -> tuple[Any, Any]:
    """Create a figure without a window; return it with its axes, an array if ``columns > 1``.

    ``height`` is in inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = _INCHES[0]
    figure: Any = Figure(figsize=(max(width, 4 * columns), height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns)


def write_figure(path: Path, figure: Any) -> None:
    """Write a figure as a PNG or SVG file, as the ending says."""
    replace_file(path, lambda file: figure.savefig(file, format=path.suffix[1:], dpi=150))
