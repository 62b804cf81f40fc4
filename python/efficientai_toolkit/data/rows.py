"""Rows of data."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

from efficientai_toolkit.exceptions import DatasetError

_LONGEST_LINE = 16 << 20
"""Characters; the engine refuses longer ones too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the data."""

    path: Path
    line: int
    """1-based."""
    values: dict[str, Any]

    def blame(self, reason: str) -> DatasetError:
        """The error that names this line."""
        return DatasetError(f"{self.path}:{self.line}: {reason}")


def read_rows(path: Path, limit: int | None = None) -> list[Row]:
    """Rows of a jsonl file, blank lines skipped.

    Raises
    ------
    DatasetError
        A line is no JSON object or endless; there are no rows; the file cannot be read.
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
