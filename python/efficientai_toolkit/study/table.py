"""Tables of results as text and CSV."""

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
    """Format rows as a text table with a left-aligned first column.

    Parameters
    ----------
    rows
        Rows of the table.
    columns
        Functions that format a cell of a row, by column title.
    """
    cells = [tuple(columns), *(tuple(cell(row) for cell in columns.values()) for row in rows)]
    return "\n".join(align(cells, left=1))


def write_csv(path: Path, kind: "type[DataclassInstance]", rows: "Sequence[DataclassInstance]") -> None:
    """Write rows to a CSV file with one column per field of the dataclass ``kind``."""
    header = [field.name for field in fields(kind)]
    files.write_csv(path, header, (list(asdict(row).values()) for row in rows))
