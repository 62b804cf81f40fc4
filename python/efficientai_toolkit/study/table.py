"""The table of a comparison for spreadsheets."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from efficientai_toolkit._base.files import write_text
from efficientai_toolkit.lora.comparison.measurement import Measurement


def write_csv(path: Path, rows: Sequence[Measurement]) -> None:
    """One line per method, one column per field of :class:`Measurement`."""
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in fields(Measurement)], lineterminator="\n")
    table.writeheader()
    table.writerows(asdict(row) for row in rows)
    write_text(path, text.getvalue())
