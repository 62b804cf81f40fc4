"""``metrics.csv`` in the output folder: a row per step, a column per metric."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from efficientai_toolkit._base.files import refuse_link, write_csv
from efficientai_toolkit.trackers.backend import Backend, Tracked

FILE = "metrics.csv"
_FIRST = ("step", "time")
_MAX_COLUMNS = 1000


class CsvFile(Backend):
    """A table; what was not measured is empty."""

    def __init__(self, tracked: Tracked) -> None:
        self._path = tracked.run.folder / FILE
        refuse_link(self._path)
        kept = [row for row in read_rows(self._path) if row["step"] <= tracked.last_step]
        columns = [name for row in kept for name in row]
        self._columns = list(dict.fromkeys([*_FIRST, *columns]))
        self._rewrite(kept)

    def log(self, step: int, metrics: Mapping[str, float], when: float) -> None:
        """Write a row at once; the file is written again where there is a new metric."""
        row = {"step": step, "time": round(when, 3), **metrics}
        new = [name for name in row if name not in self._columns]
        if new:
            self._file.close()
            self._columns += new
            self._rewrite(list(read_rows(self._path)))
        self._writer.writerow(self._cells(row))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        write_csv(self._path, self._columns, [self._cells(row) for row in rows])
        self._file = self._path.open("a", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")

    def _cells(self, row: Mapping[str, Any]) -> list[object]:
        return [row.get(name, "") for name in self._columns]


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Iterate over the rows of the file, without empty cells; those that are damaged are skipped."""
    try:
        file = path.open(encoding="utf-8", errors="replace", newline="")
    except FileNotFoundError:
        return
    with file:
        rows = csv.reader(file)
        try:
            columns = next(rows)[:_MAX_COLUMNS]
            for cells in rows:
                row = dict(zip(columns, cells, strict=False))
                try:
                    values: dict[str, Any] = {name: float(cell) for name, cell in row.items() if cell}
                    yield {**values, "step": int(row["step"])}
                except (ValueError, LookupError):
                    continue
        except (csv.Error, StopIteration):
            # A field larger than the module's limit, or no header.
            return


BACKEND = CsvFile
