"""Rows of JSONL files."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

from efficientai_toolkit.exceptions import DatasetError

_LONGEST_LINE = 16 << 20
"""Maximum line length in characters, as in the engine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A row of a JSONL file."""

    path: Path
    line: int
    """Line number, 1-based."""
    values: dict[str, Any]

    def blame(self, reason: str) -> DatasetError:
        """Return an error that names the file and line of this row."""
        return DatasetError(f"{self.path}:{self.line}: {reason}")


def read_rows(path: Path, limit: int | None = None) -> list[Row]:
    """Read the rows of a JSONL file, skipping blank lines.

    Raises
    ------
    DatasetError
        If a line is not a JSON object or too long, there are no rows, or the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig") as lines:
            rows = list(islice(_parse(path, lines), limit))
    except UnicodeDecodeError as error:
        message = f"{path}: not UTF-8 text (byte {error.start})"
        raise DatasetError(message) from error
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise DatasetError(message) from error
    if not rows:
        message = f"{path}: the file holds no rows"
        raise DatasetError(message)
    return rows


def _parse(path: Path, lines: Any) -> Iterator[Row]:
    number = 0
    while text := lines.readline(_LONGEST_LINE + 1):
        number += 1
        if len(text) > _LONGEST_LINE:
            message = f"{path}:{number}: the line is longer than {_LONGEST_LINE} characters"
            raise DatasetError(message)
        if not text.strip():
            continue
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            message = f"{path}:{number}: invalid JSON ({error}); every line must be one whole JSON object"
            raise DatasetError(message) from error
        if not isinstance(values, dict):
            message = f"{path}:{number}: a row must be a JSON object, not {type(values).__name__}"
            raise DatasetError(message)
        yield Row(path=path, line=number, values=cast("dict[str, Any]", values))
