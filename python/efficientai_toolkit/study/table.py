"""Rows of results as text, and for spreadsheets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from efficientai_toolkit._base import files
from efficientai_toolkit._base.tables import align

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R")


def format_table(rows: Sequence[R], columns: Mapping[str, Callable[[R], str]]) -> str:
    """One line per row below a header; the first column, of names, is aligned to the left.

    Parameters
    ----------
    rows
        What is shown.
    columns
        By title, what a cell says of a row.
    """
    cells = [tuple(columns), *(tuple(cell(row) for cell in columns.values()) for row in rows)]
    return "\n".join(align(cells, left=1))


def write_csv(path: Path, kind: "type[DataclassInstance]", rows: "Sequence[DataclassInstance]") -> None:
    """One line per row, one column per field of the dataclass ``kind``."""
    header = [field.name for field in fields(kind)]
    files.write_csv(path, header, (list(asdict(row).values()) for row in rows))
