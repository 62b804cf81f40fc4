"""Rows of JSONL files."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

from efficientai_toolkit.exceptions import DatasetError

_SURROGATE = re.compile("[\ud800-\udfff]")
_IS_LONE = (
    "a lone surrogate: half of a character, which JSON writes as two escapes such as "
    r"\ud83d\ude00; write both, or \ufffd in its place"
)
_VALIDATION_FILES = ("valid.jsonl", "validation.jsonl", "dev.jsonl")
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


def find_validation_file(folder: Path) -> Path | None:
    """Return the JSONL file of the validation split in ``folder``, if there is one.

    Raises
    ------
    DatasetError
        If there are several.
    """
    files = [folder / name for name in _VALIDATION_FILES if (folder / name).is_file()]
    if len(files) > 1:
        message = f"{files[0]} and {files[1]} are both there; which one holds the rows?"
        raise DatasetError(message)
    return files[0] if files else None


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
            surrogate = _lone_surrogate(values)
        except (ValueError, RecursionError) as error:
            message = f"{path}:{number}: invalid JSON ({error}); every line must be one whole JSON object"
            raise DatasetError(message) from error
        if surrogate:
            message = f"{path}:{number}: {surrogate}, {_IS_LONE}"
            raise DatasetError(message)
        if not isinstance(values, dict):
            message = f"{path}:{number}: a row must be a JSON object, not {type(values).__name__}"
            raise DatasetError(message)
        yield Row(path=path, line=number, values=cast("dict[str, Any]", values))


def _lone_surrogate(value: Any, key: str = "a string") -> str | None:
    """Return the first lone surrogate in ``value`` with its key; ``json`` reads what is no Unicode text."""
    match value:
        case str():
            found = _SURROGATE.search(value)
            return found and rf"{key} holds \u{ord(found.group()):04x}"
        case [*items]:
            places = (_lone_surrogate(item, key) for item in items)
        case dict():
            named = cast("dict[str, Any]", value).items()
            places = (_lone_surrogate(name) or _lone_surrogate(item, f'"{name}"') for name, item in named)
        case _:
            return None
    return next((place for place in places if place), None)
