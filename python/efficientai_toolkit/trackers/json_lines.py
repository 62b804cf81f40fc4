"""``metrics.jsonl`` in the output folder: a line of JSON per step."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efficientai_toolkit._base.files import refuse_link, write_text
from efficientai_toolkit.trackers.backend import Backend, Tracked
from efficientai_toolkit.trackers.values import as_dict

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = "metrics.jsonl"


class JsonLines(Backend):
    """Lines ``{"step": 1, "time": …, "train/loss": …}``; configuration and status are in ``run.json``."""

    def __init__(self, tracked: Tracked, name: str = FILE) -> None:
        path = tracked.run.folder / name
        refuse_link(path)
        kept = [line for line in read_rows(path) if line["step"] <= tracked.last_step]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def log(self, step: int, metrics: Mapping[str, float], when: float) -> None:
        """Write a line at once, so that others can follow the file."""
        self._file.write(json.dumps({"step": step, "time": round(when, 3), **metrics}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_rows(path: Path) -> "Iterator[dict[str, Any]]":
    """Iterate over the lines of the file; those of a damaged end are skipped."""
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    with file:
        while line := file.readline(_MAX_LINE):
            try:
                row = as_dict(json.loads(line))
            except (ValueError, RecursionError):
                continue
            if isinstance(row.get("step"), int):
                yield row


_MAX_LINE = 1 << 20
BACKEND = JsonLines
